//! What the tests share: a store in a temporary directory, images, registries, mounts.

pub(crate) mod faulty;
pub(crate) mod image;
pub(crate) mod layer;
pub(crate) mod mount;
pub(crate) mod registry;
#[path = "../../../../fs/tests/common/unmount.rs"]
mod unmount;

use std::path::PathBuf;
use std::sync::Mutex;

use lib_image::{Error, ImportRequest, Input, PullRequest, Retry, import, pull};
use lib_model::{ImageRecord, Progress, Reference, Silent, Step};
use lib_store::{Context, Locks, Store};

/// A store of its own.
pub(crate) struct Place {
    pub(crate) base: tempfile::TempDir,
    pub(crate) context: Context,
}

impl Place {
    pub(crate) fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let runtime = base.path().join("run");
        let context = Context::from_environment(Some(&base.path().join("store")), |name| {
            (name == "BANGER_RUNTIME_DIR").then(|| runtime.clone().into_os_string())
        })
        .unwrap();
        Place { base, context }
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.context).unwrap()
    }

    pub(crate) fn locks(&self) -> Locks {
        Locks::new(&self.context, |_, _| {})
    }

    pub(crate) fn pull(&self, reference: &str) -> Result<ImageRecord, Error> {
        self.pull_with(&request(reference), &Silent)
    }

    pub(crate) fn pull_with(
        &self,
        request: &PullRequest,
        progress: &dyn Progress,
    ) -> Result<ImageRecord, Error> {
        pull(&mut self.store(), &mut self.locks(), request, progress)
    }

    pub(crate) fn import(
        &self,
        path: PathBuf,
        request: &ImportRequest,
    ) -> Result<ImageRecord, Error> {
        import(
            &mut self.store(),
            &mut self.locks(),
            Input::Path(path),
            request,
            &Silent,
        )
    }

    pub(crate) fn import_bytes(
        &self,
        bytes: &[u8],
        request: &ImportRequest,
    ) -> Result<ImageRecord, Error> {
        let input = Input::Stream {
            name: "standard input".into(),
            reader: Box::new(bytes),
        };
        import(
            &mut self.store(),
            &mut self.locks(),
            input,
            request,
            &Silent,
        )
    }

    pub(crate) fn rootfs(&self, image: &ImageRecord) -> PathBuf {
        self.context.image_disk(&image.id)
    }

    /// Names below a directory of the store.
    pub(crate) fn listing(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.context.data().join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Nothing was published, and staging is empty.
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.store().images().unwrap(), []);
        assert_eq!(self.listing("images"), Vec::<String>::new());
        assert_eq!(self.listing("staging"), Vec::<String>::new());
    }
}

/// A pull with retries that do not make tests slow.
pub(crate) fn request(reference: &str) -> PullRequest {
    let mut request = PullRequest::new(Reference::try_from(reference).unwrap());
    request.registry.retry = Retry {
        attempts: 3,
        first_pause: std::time::Duration::from_millis(1),
        longest_pause: std::time::Duration::from_secs(5),
    };
    request
}

/// The error and everything below it, as a command prints it.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Remembers what was reported.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) std::sync::Arc<Mutex<Vec<String>>>);

struct RecordedStep {
    label: String,
    log: std::sync::Arc<Mutex<Vec<String>>>,
    done: std::sync::atomic::AtomicU64,
}

impl Progress for Recorder {
    fn step(&self, label: &str, _total: Option<u64>) -> Box<dyn Step> {
        self.0.lock().unwrap().push(format!("begin {label}"));
        Box::new(RecordedStep {
            label: label.to_owned(),
            log: self.0.clone(),
            done: std::sync::atomic::AtomicU64::new(0),
        })
    }
}

impl Step for RecordedStep {
    fn advance(&self, amount: u64) {
        self.done
            .fetch_add(amount, std::sync::atomic::Ordering::Relaxed);
    }

    fn done(&self, note: &str) {
        let bytes = self.done.load(std::sync::atomic::Ordering::Relaxed);
        self.log
            .lock()
            .unwrap()
            .push(format!("end {} {bytes} {note}", self.label));
    }
}

/// Calls back with `begin <label>` and `end <label>`, from the thread that works.
pub(crate) struct Hook<F>(pub(crate) std::sync::Arc<F>);

impl<F: Fn(&str) + Send + Sync + 'static> Hook<F> {
    pub(crate) fn new(hook: F) -> Self {
        Hook(std::sync::Arc::new(hook))
    }
}

impl<F: Fn(&str) + Send + Sync + 'static> Progress for Hook<F> {
    fn step(&self, label: &str, _total: Option<u64>) -> Box<dyn Step> {
        (self.0)(&format!("begin {label}"));
        Box::new(HookStep(self.0.clone(), label.to_owned()))
    }
}

struct HookStep<F>(std::sync::Arc<F>, String);

impl<F: Fn(&str) + Send + Sync> Step for HookStep<F> {
    fn advance(&self, _amount: u64) {}

    fn done(&self, _note: &str) {
        (self.0)(&format!("end {}", self.1));
    }
}
