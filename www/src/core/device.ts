// What the models compute on: the CPU's cores, or the GPU.

/** What computes. `burn`: the GPU, by burn-wgpu, which takes SLMs that our own kernels do not know. */
export type Device = 'cpu' | 'gpu' | 'burn';

/** What the person chose; `auto`: whichever is faster here. */
export type DeviceChoice = 'auto' | 'cpu' | 'gpu';

/** The GPU of this browser, as far as the page may know. */
export interface Found {
  /** The adapter in words; none where there is no adapter. */
  name?: string;
  /** Why `auto` leaves it alone. */
  why?: string;
}

/** Seconds that a browser may take to name its GPU: some never answer, and the plan waits for it. */
const PATIENCE = 5;

/** Looks for a GPU; never rejects. Adapters that compute on the CPU are found, but `auto` leaves them alone. */
export async function findGpu(): Promise<Found> {
  const { gpu } = navigator as { gpu?: GPU };
  if (!gpu) return { why: 'this browser has no WebGPU' };
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<Found>((resolve) => {
    const found = { why: `the browser named no GPU within ${PATIENCE} seconds; reload the page to ask again` };
    timer = setTimeout(() => resolve(found), PATIENCE * 1000);
  });
  try {
    return await Promise.race([askFor(gpu), silence]);
  } catch (error) {
    return { why: `the browser gives no GPU (${error instanceof Error ? error.message : String(error)})` };
  } finally {
    clearTimeout(timer);
  }
}

async function askFor(gpu: GPU): Promise<Found> {
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) return { why: 'the browser gives no GPU' };
  // Browsers of 2023 do not say.
  const info: Partial<GPUAdapterInfo> = adapter.info ?? {};
  const { vendor, architecture, device, description } = info;
  const name = [vendor, description || architecture || device].filter(Boolean).join(' ') || 'an unnamed GPU';
  const software = info.isFallbackAdapter || /swiftshader|llvmpipe|basic render/i.test(`${name} ${architecture}`);
  return software ? { name, why: `${name} computes on the CPU` } : { name };
}

/** Where the server has burn-wgpu's module and its JavaScript, if it has them: usual builds of the page do not. */
const BURN = '/wasm/burn/autoannotator';
export const BURN_WASM = `${BURN}_bg.wasm`;
export const BURN_GLUE = `${BURN}.js`;

/** Whether the server has burn-wgpu. It may answer with the page itself where it has no such file. */
export async function findBurn(): Promise<boolean> {
  try {
    const { ok, headers } = await fetch(BURN_WASM, { method: 'HEAD' });
    return ok && headers.get('content-type')?.startsWith('application/wasm') === true;
  } catch {
    return false;
  }
}

/** The code of an error that says that the GPU's kernels do not know an SLM's architecture. */
export const NO_KERNELS = 'slm-no-kernels';

/** Whether an error says that a GPU is of no use, or not to an SLM, so that something else takes over. */
export function isGpuFailure(code: string): boolean {
  return code === 'slm-gpu' || code === 'slm-no-gpu' || code === NO_KERNELS;
}
