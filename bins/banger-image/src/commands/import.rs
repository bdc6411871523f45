//! `banger-image import`.

use std::io::IsTerminal;
use std::path::Path;

use lib_cli::{Failure, Session};
use lib_config::{Config, Environment};
use lib_image::{ImportRequest, Input};
use lib_model::{Filesystem, ImageRecord, OciConfig};

use crate::cli::{ImportArgs, Words};

/// Imports one image and prints its record.
pub(crate) fn run(session: &mut Session, args: &ImportArgs) -> Result<(), Failure> {
    let config = Config::load(&Environment::process())?;
    let request = request(args, &config, session.filesystem);
    let record = match (&args.nix, &args.file) {
        (Some(installable), _) => super::import_nix::run(session, args, installable, &request)?,
        (None, Some(file)) => self::file(session, file, &request)?,
        // clap asks for one of them.
        (None, None) => return Err(Failure::usage("nothing to import was named")),
    };
    if record.names.is_empty() {
        session.note(&format!(
            "the image has no name; banger-image tag {} NAME gives it one",
            &record.id.as_str()[..12]
        ));
    }
    session.output.emit(record)
}

fn file(session: &Session, file: &Path, request: &ImportRequest) -> Result<ImageRecord, Failure> {
    let input = if file == Path::new("-") {
        if std::io::stdin().is_terminal() {
            return Err(
                Failure::usage("standard input is a terminal, not an archive")
                    .hint("docker save IMAGE | banger-image import -"),
            );
        }
        let reader = Box::new(std::io::stdin().lock());
        Input::Stream {
            name: "standard input".to_owned(),
            reader,
        }
    } else {
        Input::Path(file.to_owned())
    };
    let _tidy = session.tidy()?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    Ok(lib_image::import(
        &mut store,
        &mut locks,
        input,
        request,
        &*session.bars,
    )?)
}

fn request(args: &ImportArgs, config: &Config, filesystem: Filesystem) -> ImportRequest {
    let words = |words: &Option<Words>| words.clone().map(|words| words.0).unwrap_or_default();
    ImportRequest {
        name: args.name.clone(),
        platform: args.platform.clone(),
        select: args.select.clone(),
        run: OciConfig {
            env: args.env.clone(),
            user: args.user.clone(),
            working_dir: args.workdir.clone(),
            entrypoint: words(&args.entrypoint),
            cmd: words(&args.cmd),
            stop_signal: String::new(),
            work_seed: String::new(),
            kernel_parameters: Vec::new(),
        },
        limits: args.limits.over(&config.limits),
        size: args.size.choice(),
        filesystem,
        ignore_space: args.no_space_check,
    }
}
