// Accepted and hard rows over time.
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';

type Timeline = [number, number, number][];

function columns(timeline: Timeline): uPlot.AlignedData {
  return [timeline.map(([t]) => t), timeline.map(([, accepted]) => accepted), timeline.map(([, , hard]) => hard)];
}

function options(width: number, element: HTMLElement): uPlot.Options {
  const color = (name: string) => getComputedStyle(element).getPropertyValue(name).trim();
  const axis = { stroke: color('--quiet'), grid: { stroke: color('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui, sans-serif' };
  return {
    width,
    height: 180,
    scales: { x: { time: false }, y: { range: (_plot, _min, max) => [0, Math.max(1, max)] } },
    axes: [
      { ...axis, size: 28, values: (_plot, values) => values.map((value) => `${value} s`) },
      { ...axis, size: 52 },
    ],
    series: [
      { label: 'seconds' },
      { label: 'accepted', stroke: color('--accepted'), width: 2, points: { show: false } },
      { label: 'hard', stroke: color('--hard'), width: 2, dash: [6, 4], points: { show: false } },
    ],
    legend: { show: false },
    cursor: { show: false },
  };
}

export function Chart({ timeline }: { timeline: Timeline }) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(timeline);
  latest.current = timeline;
  useEffect(() => {
    const element = host.current;
    if (!element) return undefined;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element.clientWidth || 320, element), columns(latest.current), element);
    };
    make();
    const dark = matchMedia('(prefers-color-scheme: dark)');
    dark.addEventListener('change', make);
    const size = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: 180 }));
    size.observe(element);
    return () => {
      dark.removeEventListener('change', make);
      size.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);
  useEffect(() => plot.current?.setData(columns(timeline)), [timeline]);
  return <div ref={host} class="chart" role="img" aria-label="Accepted and hard rows over time; the figures stand below" />;
}
