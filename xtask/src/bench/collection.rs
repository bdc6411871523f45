//! How long a collection of blobs keeps others from publishing images.

use std::fs;
use std::process::{Command, Stdio};

use banger_tests::{Image, sha256};

use super::state::longest_hold;
use super::{Bench, Row, compared};
use crate::build;
use crate::step::{Result, captured, go_on};

/// Images, which have three blobs each.
const IMAGES: usize = 100;
/// Blobs that nobody has.
const UNUSED: usize = 1000;

impl Bench {
    pub(super) fn collection(&self, rows: &mut Vec<Row>) -> Result<()> {
        let archive = self.directory.path().join("image.tar");
        for number in 0..IMAGES {
            let mut image = Image::busybox()?;
            image.config["Labels"] = serde_json::json!({"number": number.to_string()});
            image.write_archive(&archive, &format!("image-{number}:1"))?;
            let archive = archive.to_string_lossy();
            captured(&mut self.command("banger-image", &["import", "--quiet", &archive]))?;
        }
        let blobs = self.store().join("blobs/blobs/sha256");
        for number in 0..UNUSED {
            let content = format!("nobody has blob {number}\n");
            let digest = sha256(content.as_bytes());
            fs::write(blobs.join(digest.trim_start_matches("sha256:")), content)?;
        }
        let before = fs::read_dir(&blobs)?.count();
        let log = self.directory.path().join("locks");
        let program = build::with_failpoints("banger-image")?;
        let mut collect = Command::new(program);
        for (key, value) in self.command("banger-image", &[]).get_envs() {
            collect.env(key, value.unwrap_or_default());
        }
        go_on()?;
        let status = collect
            .args(["gc", "--quiet"])
            .env("BANGER_FAILPOINTS", format!("record={}", log.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        let removed = before - fs::read_dir(&blobs)?.count();
        if !status.success() || removed != UNUSED {
            return Err(format!("gc: {status}, {removed} blobs of {UNUSED}").into());
        }
        let held = longest_hold(&fs::read_to_string(log)?, "images");
        rows.push(compared(
            &format!("the lock `images` while {UNUSED} blobs go"),
            held,
            "the budget",
            std::time::Duration::from_millis(100),
        ));
        Ok(())
    }
}
