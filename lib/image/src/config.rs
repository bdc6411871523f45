//! The image configuration (image-spec, config.md), of which only what a VM needs is read.

use lib_model::{Digest, OciConfig};
use serde::{Deserialize, Serialize};

use crate::{Error, Platform};

/// A parsed configuration.
#[derive(Debug, Clone)]
pub(crate) struct ImageConfig {
    pub(crate) platform: Platform,
    pub(crate) run: OciConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(flatten)]
    platform: Platform,
    #[serde(default)]
    config: Option<Run>,
    rootfs: Rootfs,
}

/// `ExposedPorts` and `Volumes` are left out on purpose: a guest's ports need no opening, and the disk that is
/// written is the VM's own, whatever the path.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Labels>,
}

/// Those that mean something here.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "org.banger.work-seed")]
    work_seed: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Rootfs {
    #[serde(rename = "type", default)]
    kind: String,
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses a configuration; `layers` is the number of layers in its manifest.
    ///
    /// # Errors
    /// [`Error::Malformed`], also when there are more or fewer diff-ids than layers.
    pub(crate) fn parse(bytes: &[u8], what: &str, layers: usize) -> Result<Self, Error> {
        let file: File =
            serde_json::from_slice(bytes).map_err(|error| Error::malformed(what, error))?;
        if file.rootfs.kind != "layers" && !file.rootfs.kind.is_empty() {
            let reason = format!("rootfs.type is `{}`", file.rootfs.kind);
            return Err(Error::malformed(what, reason));
        }
        if file.rootfs.diff_ids.len() != layers {
            let reason = format!(
                "{} diff-ids for {layers} layers",
                file.rootfs.diff_ids.len()
            );
            return Err(Error::malformed(what, reason));
        }
        let run = file.config.unwrap_or_default();
        let run = OciConfig {
            env: run.env.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            stop_signal: run.stop_signal.unwrap_or_default(),
            work_seed: run
                .labels
                .and_then(|labels| labels.work_seed)
                .unwrap_or_default(),
            kernel_parameters: Vec::new(),
        };
        if !run.work_seed.is_empty() && !run.work_seed.starts_with('/') {
            let reason = format!(
                "the label org.banger.work-seed is `{}`, which is no absolute path",
                run.work_seed
            );
            return Err(Error::malformed(what, reason));
        }
        Ok(ImageConfig {
            platform: file.platform,
            run,
            diff_ids: file.rootfs.diff_ids,
        })
    }

    /// The configuration as a file that parses to the same; equal values give equal bytes.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, Error> {
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let file = File {
            platform: self.platform.clone(),
            config: Some(Run {
                env: some(&self.run.env),
                user: text(&self.run.user),
                working_dir: text(&self.run.working_dir),
                entrypoint: some(&self.run.entrypoint),
                cmd: some(&self.run.cmd),
                stop_signal: text(&self.run.stop_signal),
                labels: text(&self.run.work_seed).map(|seed| Labels {
                    work_seed: Some(seed),
                }),
            }),
            rootfs: Rootfs {
                kind: "layers".into(),
                diff_ids: self.diff_ids.clone(),
            },
        };
        serde_json::to_vec(&file).map_err(|error| Error::malformed("the configuration", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_fields_are_empty() {
        let text = br#"{"architecture":"arm64","os":"linux","variant":"v8","created":"x",
            "config":{"Env":null,"Cmd":["sh"],"Labels":{"a":"b"}},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = ImageConfig::parse(text, "c", 0).unwrap();
        assert_eq!(config.platform.to_string(), "linux/arm64/v8");
        assert_eq!(
            config.run,
            OciConfig {
                cmd: vec!["sh".into()],
                ..OciConfig::default()
            }
        );
        let text = br#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]}}"#;
        assert_eq!(
            ImageConfig::parse(text, "c", 0).unwrap().run,
            OciConfig::default()
        );
    }

    #[test]
    fn a_work_seed_is_an_absolute_path() {
        let parse = |seed: &str| {
            let text = format!(
                r#"{{"os":"linux","architecture":"amd64","config":{{"Labels":{{"org.banger.work-seed":"{seed}","b":"c"}}}},
                "rootfs":{{"diff_ids":[]}}}}"#
            );
            ImageConfig::parse(text.as_bytes(), "c", 0)
        };
        assert_eq!(
            parse("/opt/home.tar.gz").unwrap().run.work_seed,
            "/opt/home.tar.gz"
        );
        let error = parse("../x").unwrap_err().to_string();
        assert!(error.contains("no absolute path"), "{error}");
    }

    #[test]
    fn as_many_diff_ids_as_layers() {
        let text =
            br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let error = ImageConfig::parse(text, "c", 2).unwrap_err().to_string();
        assert_eq!(error, "c is malformed: 0 diff-ids for 2 layers");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = ImageConfig {
            platform: Platform::default(),
            run: OciConfig {
                env: vec!["A=b c".into()],
                user: "u".into(),
                working_dir: "/w".into(),
                entrypoint: vec!["/bin/sh".into(), "-c".into()],
                cmd: vec![],
                stop_signal: "SIGQUIT".into(),
                work_seed: "/seed".into(),
                kernel_parameters: vec![],
            },
            diff_ids: vec![Digest::from_sha256([7; 32])],
        };
        let again = ImageConfig::parse(&config.to_json().unwrap(), "c", 1).unwrap();
        assert_eq!((again.run, again.diff_ids), (config.run, config.diff_ids));
    }
}
