//! The adapter and device that engines share.

use super::super::SlmError;
#[cfg(all(feature = "gpu-burn", not(target_arch = "wasm32")))]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex};

/// What to ask of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct GpuOptions {
    /// Whether an adapter that computes on the CPU will do. It is slower than the CPU engine, and of use in tests.
    pub software: bool,
}

/// A device with its queue, and what became of it.
#[derive(Clone)]
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    packs: bool,
    #[cfg(all(feature = "gpu-burn", not(target_arch = "wasm32")))]
    burn: Arc<Shared>,
    /// The first failure there was.
    failure: Arc<Mutex<Option<String>>>,
}

/// What burn-wgpu takes to compute on the same device, and its device once it does.
#[cfg(all(feature = "gpu-burn", not(target_arch = "wasm32")))]
struct Shared {
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
    device: OnceLock<Result<burn::tensor::Device, String>>,
}

/// What to ask of an adapter: WebGPU's default limits, since the kernels need no more, and f16 where there is that. Subgroups
/// are not asked for: wgpu 30 has them natively alone (<https://github.com/gfx-rs/wgpu/issues/5555>), and no page would gain.
fn wanted(adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
    let wanted = wgpu::DeviceDescriptor {
        label: Some("autoannotator"),
        required_features: adapter.features() & wgpu::Features::SHADER_F16,
        ..Default::default()
    };
    // burn-wgpu takes it that a device has what its adapter has.
    #[cfg(all(feature = "gpu-burn", not(target_arch = "wasm32")))]
    let wanted = wgpu::DeviceDescriptor {
        required_features: adapter.features()
            - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
            - wgpu::Features::all_experimental_mask(),
        required_limits: adapter.limits(),
        ..wanted
    };
    wanted
}

/// Whether an adapter is known to compute on the CPU.
fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = format!("{} {}", info.name, info.driver).to_lowercase();
    info.device_type == wgpu::DeviceType::Cpu
        || ["swiftshader", "llvmpipe", "basic render"].iter().any(|software| name.contains(software))
}

impl Gpu {
    /// Asks for the adapter and a device.
    ///
    /// No adapter, one in software where that will not do, or a device refused is an error that says so.
    pub async fn request(options: GpuOptions) -> Result<Self, SlmError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await
            .map_err(|error| SlmError::NoGpu(error.to_string()))?;
        let info = adapter.get_info();
        if is_software(&info) && !options.software {
            return Err(SlmError::NoGpu(format!("the adapter '{}' computes on the CPU", info.name)));
        }
        let requested = adapter.request_device(&wanted(&adapter)).await;
        let (device, queue) = requested.map_err(|error| SlmError::NoGpu(error.to_string()))?;
        let gpu = Self {
            device,
            queue,
            info,
            packs: instance.wgsl_language_features().contains(wgpu::WgslLanguageFeatures::Packed4x8IntegerDotProduct),
            #[cfg(all(feature = "gpu-burn", not(target_arch = "wasm32")))]
            burn: Arc::new(Shared { instance, adapter, device: OnceLock::new() }),
            failure: Arc::default(),
        };
        let failed = Arc::clone(&gpu.failure);
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| note(&failed, error.to_string())));
        let failed = Arc::clone(&gpu.failure);
        gpu.device.set_device_lost_callback(move |reason, message| {
            note(&failed, format!("the device was lost ({reason:?}) {message}"));
        });
        Ok(gpu)
    }

    /// The adapter in words: its name and backend.
    pub fn describe(&self) -> String {
        let name = if self.info.name.is_empty() { "an unnamed adapter" } else { &self.info.name };
        format!("{name} ({})", self.info.backend)
    }

    /// Whether the adapter is known to compute on the CPU.
    pub fn is_software(&self) -> bool {
        is_software(&self.info)
    }

    /// Whether kernels may read weights in f16.
    pub fn reads_f16(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Whether kernels may multiply four int8 by four int8 in one instruction.
    pub fn packs(&self) -> bool {
        self.packs
    }

    /// The same device for burn-wgpu.
    #[cfg(all(feature = "gpu-burn", not(target_arch = "wasm32")))]
    pub fn burn(&self) -> Result<burn::tensor::Device, SlmError> {
        let Shared { instance, adapter, device } = &*self.burn;
        // A device is registered once.
        let made = device.get_or_init(|| {
            let setup = burn::tensor::wgpu::WgpuSetup {
                instance: instance.clone(),
                adapter: adapter.clone(),
                device: self.device.clone(),
                queue: self.queue.clone(),
                backend: self.info.backend,
            };
            let made = burn::tensor::Device::wgpu_options().setup(setup).init();
            made.map_err(|error| error.to_string())
        });
        made.clone().map_err(SlmError::NoGpu)
    }

    /// Gives the device up, as a driver's reset would: everything on it fails from now on.
    pub fn destroy(&self) {
        self.device.destroy();
    }

    /// An error once something has failed: the device is of no use after it.
    pub(super) fn check(&self) -> Result<(), SlmError> {
        let failure = self.failure.lock().ok().and_then(|failure| failure.clone());
        failure.map_or(Ok(()), |problem| Err(SlmError::Gpu(problem)))
    }

    pub(super) fn fail(&self, problem: impl Into<String>) -> SlmError {
        let problem = problem.into();
        note(&self.failure, problem.clone());
        SlmError::Gpu(problem)
    }

    /// Waits until everything submitted is done; in a browser that happens by itself.
    pub(super) fn wait(&self) -> Result<(), SlmError> {
        match self.device.poll(wgpu::PollType::wait_indefinitely()) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.fail(error.to_string())),
        }
    }
}

fn note(failure: &Mutex<Option<String>>, problem: String) {
    if let Ok(mut failure) = failure.lock() {
        failure.get_or_insert(problem);
    }
}
