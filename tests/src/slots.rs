//! As many guests at once as there are processors, over all test processes: emulation is pure
//! computation, and more guests only push each other over deadlines.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The right to run guests; given back when dropped, or by the kernel when the process dies.
#[derive(Debug)]
pub(crate) struct Slot(#[expect(dead_code, reason = "holds the lock")] File);

impl Slot {
    pub(crate) fn wait(directory: &Path) -> io::Result<Slot> {
        std::fs::create_dir_all(directory)?;
        let slots = thread::available_parallelism()?.get();
        loop {
            for slot in 0..slots {
                let file = OpenOptions::new()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(directory.join(slot.to_string()))?;
                if file.try_lock().is_ok() {
                    return Ok(Slot(file));
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
