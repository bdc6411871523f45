//! Records on standard output: a table at the end for people, a line at once for programs.

use std::io::{self, IsTerminal, Write};

use lib_model::{
    BlobRecord, ByteSize, ImageRecord, KernelRecord, OperationRecord, OperationState, Record,
    VmRecord,
};

use crate::guest_rows::{heading, live_line, row, utc};
use crate::{Failure, Format, Global, Table, age, printable};

/// Collects or prints records. Call [`Output::finish`] at the end.
#[derive(Debug)]
pub struct Output {
    format: Format,
    /// Somebody asked for it.
    chosen: bool,
    waiting: Vec<Record>,
    /// The heading of rows that are printed one by one.
    headed: bool,
}

impl Output {
    /// The format that was asked for; without one, a table on a terminal and JSON elsewhere.
    ///
    /// # Errors
    /// When more than one was asked for.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let chosen = global.output()?;
        let format = match chosen {
            Some(format) => format,
            None if io::stdout().is_terminal() => Format::Table,
            None => Format::Json,
        };
        Ok(Output {
            format,
            chosen: chosen.is_some(),
            waiting: Vec::new(),
            headed: false,
        })
    }

    /// Empty, in the same format.
    pub(crate) fn another(&self) -> Self {
        Output {
            format: self.format,
            chosen: self.chosen,
            waiting: Vec::new(),
            headed: false,
        }
    }

    /// The format in use.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The format was asked for: what prints something else otherwise prints records then.
    pub fn is_chosen(&self) -> bool {
        self.chosen
    }

    /// Prints a record, or keeps it for the table.
    ///
    /// # Errors
    /// When standard output fails; a closed pipe is a silent failure.
    pub fn emit(&mut self, record: impl Into<Record>) -> Result<(), Failure> {
        let record = record.into();
        let failed = |error| Failure::io("write to standard output", error);
        match self.format {
            Format::Table => {
                self.waiting.push(record);
                Ok(())
            }
            // One write a line, so that a reader sees each record as soon as it exists.
            Format::Json => {
                let line = serde_json::to_string(&record).map_err(|e| failed(e.into()))? + "\n";
                io::stdout().write_all(line.as_bytes()).map_err(failed)
            }
            Format::Ids => writeln!(io::stdout(), "{}", record.id()).map_err(failed),
        }
    }

    /// Prints a record at once, in a table too, for commands that follow something.
    ///
    /// # Errors
    /// When standard output fails.
    pub fn emit_now(&mut self, record: impl Into<Record>) -> Result<(), Failure> {
        let record = record.into();
        if self.format != Format::Table {
            return self.emit(record);
        }
        let failed = |error| Failure::io("write to standard output", error);
        let mut text = String::new();
        if !std::mem::replace(&mut self.headed, true) {
            text = live_line(heading(&record).iter().copied());
        }
        text.push_str(&live_line(row(&record).iter().map(String::as_str)));
        io::stdout().write_all(text.as_bytes()).map_err(failed)
    }

    /// Prints one record in full: every field on a line of its own for people.
    ///
    /// # Errors
    /// When standard output fails.
    pub fn show(&mut self, record: impl Into<Record>) -> Result<(), Failure> {
        let record = record.into();
        if self.format != Format::Table {
            return self.emit(record);
        }
        let failed = |error| Failure::io("write to standard output", error);
        let value = serde_json::to_value(&record).map_err(|e| failed(e.into()))?;
        let mut text = String::new();
        fields(&mut text, "", &value);
        io::stdout().write_all(text.as_bytes()).map_err(failed)
    }

    /// Prints the table of what was emitted.
    ///
    /// # Errors
    /// When standard output fails.
    pub fn finish(self) -> Result<(), Failure> {
        if self.format != Format::Table {
            return Ok(());
        }
        let now = lib_store::now_ms();
        let mut images = Table::new(["NAME", "ID", "SIZE", "USED", "AGE", "SOURCE"]);
        let mut kernels = Table::new(["NAME", "ID", "RELEASE", "MODULES", "AGE"]);
        let mut vms = Table::new([
            "NAME", "ID", "STATE", "IMAGE", "CPUS", "MEMORY", "PID", "AGE",
        ]);
        let mut operations = Table::new(["ID", "OPERATION", "NAME", "STATE", "STAGE", "AGE"]);
        let mut blobs = Table::new(["DIGEST", "STATE", "SIZE", "IMAGES"]);
        let mut seen = [false; 5];
        // Each run of records of one kind is a table of its own.
        let mut others: Vec<(&str, Table)> = Vec::new();
        for record in &self.waiting {
            match record {
                Record::Image(image) => {
                    seen[0] = true;
                    images.row(image_row(image, now));
                }
                Record::Kernel(kernel) => {
                    seen[1] = true;
                    kernels.row(kernel_row(kernel, now));
                }
                Record::Vm(vm) => {
                    seen[2] = true;
                    vms.row(vm_row(vm, now));
                }
                Record::Operation(operation) => {
                    seen[3] = true;
                    operations.row(operation_row(operation, now));
                }
                Record::Blob(blob) => {
                    seen[4] = true;
                    blobs.row(blob_row(blob));
                }
                other => {
                    if others.last().is_none_or(|(kind, _)| *kind != other.kind()) {
                        others.push((other.kind(), Table::with_heading(heading(other))));
                    }
                    if let Some((_, table)) = others.last_mut() {
                        table.cells(row(other));
                    }
                }
            }
        }
        let mut stdout = io::stdout().lock();
        let failed = |e| Failure::io("write to standard output", e);
        for (_, table) in &others {
            table.write(&mut stdout).map_err(failed)?;
        }
        for (table, seen) in [images, kernels, vms, operations, blobs].iter().zip(seen) {
            if seen {
                table.write(&mut stdout).map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn image_row(image: &ImageRecord, now: u64) -> [String; 6] {
    [
        image
            .names
            .first()
            .cloned()
            .unwrap_or_else(|| "<none>".into()),
        image.id.as_str()[..12].to_owned(),
        image.size.to_string(),
        image.used.to_string(),
        age(image.created_ms, now),
        image.source.clone(),
    ]
}

fn kernel_row(kernel: &KernelRecord, now: u64) -> [String; 5] {
    [
        kernel.name.to_string(),
        kernel.id.as_str()[..12].to_owned(),
        kernel.release.clone(),
        kernel.modules.to_string(),
        age(kernel.created_ms, now),
    ]
}

fn vm_row(vm: &VmRecord, now: u64) -> [String; 8] {
    [
        vm.name.to_string(),
        vm.id.as_str()[..12].to_owned(),
        vm.state.to_string(),
        vm.image_name.clone(),
        vm.cpus.to_string(),
        vm.memory.to_string(),
        vm.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
        age(vm.created_ms, now),
    ]
}

fn blob_row(blob: &BlobRecord) -> [String; 4] {
    [
        blob.digest.short().to_owned(),
        blob.state.to_string(),
        blob.size.to_string(),
        blob.images.join(" "),
    ]
}

fn operation_row(operation: &OperationRecord, now: u64) -> [String; 6] {
    let stage = match operation.total {
        _ if operation.state != OperationState::Running => "-".to_owned(),
        Some(total) if total > 0 => {
            let percent = operation.done.saturating_mul(100) / total;
            format!("{} {percent} %", operation.stage)
        }
        _ => operation.stage.clone(),
    };
    [
        operation.id.as_str()[..12].to_owned(),
        operation.operation.clone(),
        operation.name.clone(),
        operation.state.to_string(),
        stage,
        age(operation.created_ms, now),
    ]
}

fn fields(text: &mut String, prefix: &str, value: &serde_json::Value) {
    use std::fmt::Write;
    let Some(object) = value.as_object() else {
        return;
    };
    for (key, value) in object {
        let is_time = TIMES.contains(&&**key);
        let name = match key.strip_suffix("_ms") {
            Some(bare) if is_time => format!("{prefix}{bare}"),
            _ => format!("{prefix}{key}"),
        };
        let shown = match value {
            serde_json::Value::Object(_) => {
                fields(text, &format!("{name}."), value);
                continue;
            }
            serde_json::Value::String(string) => printable(string),
            serde_json::Value::Null => continue,
            serde_json::Value::Array(items) if items.is_empty() => continue,
            other => match other.as_u64() {
                Some(bytes) if SIZES.contains(&&**key) => ByteSize(bytes).to_string(),
                Some(time) if is_time => utc(time),
                _ => printable(&other.to_string()),
            },
        };
        let _ = writeln!(text, "{name}: {shown}");
    }
}

/// Fields that are milliseconds since 1970.
const TIMES: [&str; 4] = ["created_ms", "started_ms", "finished_ms", "prepared_ms"];

/// Fields that are bytes.
const SIZES: [&str; 6] = [
    "memory",
    "disk",
    "size",
    "used",
    "work_disk",
    "memory_limit",
];
