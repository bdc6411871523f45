//! `banger-image pull`.

use lib_cli::{Failure, Session};
use lib_config::{Config, Environment};
use lib_image::{LockFile, PullRequest, RegistryOptions};
use lib_model::{Filesystem, Reference};

use crate::cli::PullArgs;

/// Pulls the images one after the other and prints each record as soon as it is there.
pub(crate) fn run(session: &mut Session, args: &PullArgs) -> Result<(), Failure> {
    let config = Config::load(&Environment::process())?;
    let requests = args
        .images
        .iter()
        .map(|image| request(args, &config, session.filesystem, image))
        .collect::<Result<Vec<_>, Failure>>()?;
    let _tidy = session.tidy()?;
    if let Some(directory) = &args.oci_layout {
        return match &requests[..] {
            [Some(request)] => {
                let layout = lib_image::pull_layout(request, directory, &*session.bars)?;
                session.output.emit(layout)
            }
            _ => Err(
                Failure::usage("--oci-layout takes one image, of a registry")
                    .hint("banger-image pull --oci-layout DIR alpine:3.20"),
            ),
        };
    }
    let mut store = session.store()?;
    let mut locks = session.locks();
    for request in requests {
        let record = match request {
            Some(request) => lib_image::pull(&mut store, &mut locks, &request, &*session.bars)?,
            None => {
                let bars = session.bars.clone();
                let kernel = lib_defaults::make_kernel(&mut store, &mut locks, &*bars)?;
                session.note(&format!("kernel {} is here", kernel.name));
                lib_defaults::make_image(&mut store, &mut locks, session.filesystem, &*bars)?
            }
        };
        session.output.emit(record)?;
    }
    Ok(())
}

/// What is to be pulled; none means the host's distribution.
fn request(
    args: &PullArgs,
    config: &Config,
    filesystem: Filesystem,
    image: &str,
) -> Result<Option<PullRequest>, Failure> {
    if image == lib_defaults::HOST {
        return Ok(None);
    }
    let mut registry = RegistryOptions::configured(&config.registry, std::env::var_os);
    registry.plain_http.extend_from_slice(&args.plain_http);
    registry.ca_files.extend_from_slice(&args.ca_file);
    registry.tls_on_loopback = args.tls;
    let lock_file = args.lock_file.as_ref().map(|path| LockFile {
        path: path.clone(),
        frozen: args.frozen,
    });
    Ok(Some(PullRequest {
        platform: args.platform.clone(),
        registry,
        limits: args.limits.over(&config.limits),
        size: args.size.choice(),
        filesystem,
        offline: args.offline,
        lock_file,
        check_space: !args.no_space_check,
        ..PullRequest::new(Reference::try_from(image)?)
    }))
}
