// What the models compute on: the CPU's cores, or the GPU.

/** What computes. */
export type Device = 'cpu' | 'gpu';

/** What the person chose; `auto`: whichever is faster here. */
export type DeviceChoice = 'auto' | Device;

/** The GPU of this browser, as far as the page may know. */
export interface Found {
  /** The adapter in words; none where there is no adapter. */
  name?: string;
  /** Why `auto` leaves it alone. */
  why?: string;
}

/** Looks for a GPU. Adapters that compute on the CPU are found, but `auto` leaves them alone. */
export async function findGpu(): Promise<Found> {
  const { gpu } = navigator as { gpu?: GPU };
  if (!gpu) return { why: 'this browser has no WebGPU' };
  let adapter: GPUAdapter | null;
  try {
    adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  } catch (error) {
    return { why: `the browser gives no GPU (${error instanceof Error ? error.message : String(error)})` };
  }
  if (!adapter) return { why: 'the browser gives no GPU' };
  const { vendor, architecture, device, description } = adapter.info;
  const name = [vendor, description || architecture || device].filter(Boolean).join(' ') || 'an unnamed GPU';
  const software = adapter.info.isFallbackAdapter || /swiftshader|llvmpipe|basic render/i.test(`${name} ${architecture}`);
  return software ? { name, why: `${name} computes on the CPU` } : { name };
}

/** Whether an error says that a GPU is of no use, so that the CPU takes over. */
export function isGpuFailure(code: string): boolean {
  return code === 'slm-gpu' || code === 'slm-no-gpu';
}
