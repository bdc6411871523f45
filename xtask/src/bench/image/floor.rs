//! What no program can do without: download, digests, decompression, writing; each part alone.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::large::Blob;
use crate::bench::measure::{Cost, spent};
use crate::step::Result;

/// The parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    download: Cost,
    digest: Cost,
    /// Decompression with the digest of what comes out; of all layers.
    unpack: Cost,
    /// The layer that takes longest: a stream cannot be decompressed in two places.
    longest: f64,
    /// The used blocks, and fdatasync(2).
    write: Cost,
    cores: f64,
}

impl Floor {
    /// Measures all parts with `program`, the example `floor` of lib-image.
    ///
    /// # Errors
    /// When a part fails.
    pub(super) fn measure(
        program: &Path,
        registry: SocketAddr,
        layers: &[Blob],
        image_bytes: u64,
        work: &Path,
    ) -> Result<Floor> {
        let command = |part: &str| {
            let mut command = Command::new(program);
            command.arg(part);
            command
        };
        let mut download = command("download");
        download.arg(registry.to_string());
        download.args(layers.iter().map(|layer| &layer.path));
        let mut digest = command("digest");
        digest.args(layers.iter().map(|layer| &layer.file));
        let (mut unpack, mut longest) = (Cost::default(), 0.0_f64);
        for layer in layers {
            let cost = spent(command("unpack").arg(&layer.file))?;
            longest = longest.max(cost.cpu.as_secs_f64());
            unpack.cpu += cost.cpu;
            unpack.wall += cost.wall;
        }
        let mut write = command("write");
        write.arg(work).arg(image_bytes.to_string());
        let floor = Floor {
            download: spent(&download)?,
            digest: spent(&digest)?,
            unpack,
            longest,
            write: spent(&write)?,
            cores: std::thread::available_parallelism()?.get() as f64,
        };
        crate::bench::remove(work)?;
        Ok(floor)
    }

    /// Processor seconds of all parts.
    pub(super) fn cpu(&self) -> f64 {
        [self.download, self.digest, self.unpack, self.write]
            .iter()
            .map(|part| part.cpu.as_secs_f64())
            .sum()
    }

    /// Seconds when all parts overlap perfectly on the cores there are; never less than the
    /// longest part that is a sequence.
    pub(super) fn wall(&self) -> f64 {
        let write = self.write.wall.as_secs_f64();
        (self.cpu() / self.cores).max(self.longest).max(write)
    }
}

impl Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |cost: &Cost| cost.cpu.as_secs_f64();
        write!(
            f,
            "floor {:.2} {:.2} = download {:.2}, digest {:.2}, unpack {:.2} (one layer {:.2}), \
             write {:.2} (wall {:.2})",
            self.wall(),
            self.cpu(),
            part(&self.download),
            part(&self.digest),
            part(&self.unpack),
            self.longest,
            part(&self.write),
            self.write.wall.as_secs_f64(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_wall_is_never_below_a_sequence() {
        let cost = |millis| Cost {
            cpu: Duration::from_millis(millis),
            wall: Duration::from_millis(millis),
            ..Cost::default()
        };
        let mut floor = Floor {
            download: cost(200),
            digest: cost(300),
            unpack: cost(3000),
            longest: 1.0,
            write: cost(500),
            cores: 2.0,
        };
        assert!((floor.cpu() - 4.0).abs() < 1e-9);
        assert!((floor.wall() - 2.0).abs() < 1e-9);
        floor.longest = 2.5;
        assert!((floor.wall() - 2.5).abs() < 1e-9);
        floor.write.wall = Duration::from_secs(3);
        assert!((floor.wall() - 3.0).abs() < 1e-9);
    }
}
