//! The device that SLMs run on: chosen, and left where it fails.

use crate::annotate::Voter;
use crate::hub::packing::{self, Unpacked};
use crate::hub::{Home, HubError};
use crate::sample::Vote;
use crate::slm::SlmError;
use crate::slm::gpu::{Gpu, GpuOptions};
use crate::slm::model::Slm;
use crate::slm::tokenize::Tokenizer;
use crate::spec::Spec;
use anyhow::Context;
use pollster::block_on;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// What SLMs compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DeviceChoice {
    /// The CPU, on all cores.
    Cpu,
    /// The GPU; an adapter in software is taken too.
    Gpu,
    /// Whichever is faster here.
    Auto,
}

/// Texts that engines are timed on.
const SAMPLES: [&str; 8] = [
    "what a day",
    "I did not expect this to work as well as it does, thank you",
    "The meeting has been moved to Thursday at ten, see the calendar for the new room.",
    "@user no, and please stop asking me the same question every single morning",
    "Revenue rose to EUR 131.0 mn from EUR 120.7 mn in the corresponding period of the year before.",
    "worst service ever!!! waited two hours and then they closed",
    "ok",
    "We went to the lake with the children, and although it rained all the time nobody wanted to go home again.",
];

/// Loads SLMs on the device that was chosen.
pub(super) struct Devices {
    choice: DeviceChoice,
    gpu: Option<Gpu>,
}

impl Devices {
    /// Asks for a GPU where the choice needs one; with `gpu` it is an error if there is none.
    pub(super) fn new(choice: DeviceChoice) -> anyhow::Result<Self> {
        let gpu = match choice {
            DeviceChoice::Cpu => None,
            DeviceChoice::Gpu => Some(block_on(Gpu::request(GpuOptions { software: true })).context("--device gpu")?),
            DeviceChoice::Auto => {
                let gpu = block_on(Gpu::request(GpuOptions::default()));
                gpu.inspect_err(|error| warn!("--device auto: {error}")).ok()
            }
        };
        if let Some(gpu) = &gpu {
            info!("GPU: {}", gpu.describe());
        }
        Ok(Self { choice, gpu })
    }

    /// Loads a packed SLM, to vote on the spec's task.
    pub(super) fn load(
        &self,
        home: &Home,
        spec: &Spec,
        id: &str,
        precision: &str,
        threads: usize,
    ) -> anyhow::Result<DeviceVoter> {
        let (home, id, precision) = (home.clone(), id.to_owned(), precision.to_owned());
        let (task, map) = (spec.task.clone(), spec.label_maps.get(&id).cloned());
        let on_cpu = {
            let (home, id, precision, task, map) =
                (home.clone(), id.clone(), precision.clone(), task.clone(), map.clone());
            Box::new(move || -> Result<Slm, HubError> {
                let mut slm = packing::load(&home, &id, &precision, threads)?;
                slm.vote_on(&task, map.as_ref())?;
                Ok(slm)
            })
        };
        let Some(gpu) = &self.gpu else { return Ok(DeviceVoter { slm: on_cpu()?, on_cpu }) };
        let Unpacked { packed, version, tokenizer } = packing::read(&home, &id, &precision)?;
        let start = Instant::now();
        let now = || start.elapsed().as_secs_f64() * 1000.0;
        let tokenizer = Arc::new(Tokenizer::from_json(&tokenizer, packed.meta.max_length)?);
        let on_gpu = block_on(Slm::on_gpu(packed, version, tokenizer.clone(), gpu, now));
        #[cfg(feature = "gpu-burn")]
        let on_gpu = match on_gpu {
            Err(SlmError::NoGpu(why)) => {
                // It takes no int8.
                let precision = if precision == "int8" { "f32" } else { &precision };
                let Unpacked { packed, version, .. } = packing::read(&home, &id, precision)?;
                info!("{id}: {why}; burn-wgpu takes it in {precision}");
                gpu.burn().and_then(|device| Slm::on_burn(packed, version, tokenizer, &device))
            }
            other => other,
        };
        let on_gpu = on_gpu.and_then(|mut slm| {
            slm.vote_on(&task, map.as_ref())?;
            Ok(slm)
        });
        if self.choice == DeviceChoice::Gpu {
            return Ok(DeviceVoter { slm: on_gpu.context("--device gpu")?, on_cpu });
        }
        let mut cpu = on_cpu()?;
        let timed = on_gpu.and_then(|mut slm| Ok((time(&mut slm)?, slm)));
        let slm = match timed {
            Ok((gpu_time, slm)) => {
                let cpu_time = time(&mut cpu)?;
                let faster = if gpu_time < cpu_time { "GPU" } else { "CPU" };
                info!("{id}: {gpu_time:.1?} on the GPU, {cpu_time:.1?} on the CPU: the {faster} serves");
                if gpu_time < cpu_time { slm } else { cpu }
            }
            Err(error) => {
                warn!("{id}: {error}");
                cpu
            }
        };
        Ok(DeviceVoter { slm, on_cpu })
    }
}

/// The shortest of three votes on the samples, after one that warms up.
fn time(slm: &mut Slm) -> Result<Duration, SlmError> {
    let texts = SAMPLES.repeat(4);
    let mut best = Duration::MAX;
    for run in 0..4 {
        let start = Instant::now();
        block_on(slm.vote(&texts))?;
        if run > 0 {
            best = best.min(start.elapsed());
        }
    }
    Ok(best)
}

/// An SLM that goes on on the CPU where its GPU fails.
pub(super) struct DeviceVoter {
    slm: Slm,
    on_cpu: Box<dyn Fn() -> Result<Slm, HubError>>,
}

impl Voter for DeviceVoter {
    fn vote(&mut self, texts: &[&str]) -> Result<Vec<Vote>, SlmError> {
        match block_on(self.slm.vote(texts)) {
            Err(error @ SlmError::Gpu(_)) => {
                warn!("{error}; {} goes on on the CPU", self.slm.meta().id);
                self.slm = (self.on_cpu)().map_err(|again| SlmError::Gpu(format!("{error}, and {again}")))?;
                block_on(self.slm.vote(texts))
            }
            voted => voted,
        }
    }
}
