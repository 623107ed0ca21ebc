import { render } from 'preact';
import 'uplot/dist/uPlot.min.css';
import './ui/style.css';
import { Session } from './core/session';
import { App } from './ui/App';

const session = new Session();
const root = document.getElementById('app');
if (root) render(<App session={session} />, root);
void session.open();
