//! What must be true of a store and its processes after anything.

use std::collections::BTreeSet;
use std::fs;

use crate::Sandbox;

impl Sandbox {
    /// Checks that the store holds exactly what its rows say and that only living VMs have sockets and
    /// processes. Runs the commands that sweep first, as a person would.
    ///
    /// # Panics
    /// When something leaked, or a command lies about it.
    #[track_caller]
    pub fn assert_nothing_leaked(&self) {
        self.sh("banger-vm reconcile --quiet").ok();
        let vms = self.sh("banger-vm list --json").records();
        let images = self.sh("banger-image list --json").records();
        let kernels = self.sh("banger-image kernel list --json").records();
        for (folder, records) in [("vms", &vms), ("images", &images), ("kernels", &kernels)] {
            let rows: BTreeSet<String> = records.iter().map(|r| text(&r["id"])).collect();
            assert_eq!(
                self.entries(folder),
                rows,
                "{folder} without a row, or without files"
            );
        }
        let ids: BTreeSet<String> = images.iter().map(|image| text(&image["id"])).collect();
        let roots = self.entries("gcroots");
        assert!(roots.is_subset(&ids), "roots {roots:?} of images {ids:?}");
        for folder in ["staging", "trash"] {
            let left = self.entries(folder);
            assert!(left.is_empty(), "{folder} holds {left:?}");
        }
        let names: BTreeSet<String> = vms.iter().map(|vm| text(&vm["name"])).collect();
        assert_eq!(names.len(), vms.len(), "a name is given twice: {vms:#?}");
        let living: BTreeSet<String> = vms
            .iter()
            .filter(|vm| vm["state"] != "stopped")
            .map(|vm| text(&vm["id"]))
            .collect();
        let sockets: BTreeSet<String> = fs::read_dir(self.runtime())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(sockets, living, "runtime directories and living VMs");
        let integrity = self.sql("PRAGMA integrity_check; PRAGMA foreign_key_check;");
        assert_eq!(integrity.trim(), "ok", "the database");
    }

    /// Names in a folder of the store.
    pub fn entries(&self, folder: &str) -> BTreeSet<String> {
        fs::read_dir(self.store().join(folder))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// What SQLite's own shell says.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        let database = self.store().join("banger.db");
        let line = format!(
            "sqlite3 -cmd '.timeout 60000' {} {statement:?}",
            database.display()
        );
        self.sh(&line).ok().to_owned()
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
