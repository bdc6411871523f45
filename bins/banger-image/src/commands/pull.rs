//! `banger-image pull`.

use lib_cli::{Failure, Session};
use lib_image::{PullRequest, RegistryOptions, credential_files};
use lib_model::Reference;

use crate::cli::PullArgs;

/// Pulls the images one after the other and prints each record as soon as it is there.
pub(crate) fn run(session: &mut Session, args: &PullArgs) -> Result<(), Failure> {
    let requests = args
        .images
        .iter()
        .map(|image| request(args, image))
        .collect::<Result<Vec<_>, Failure>>()?;
    let mut store = session.store()?;
    let mut locks = session.locks();
    for request in requests {
        let record = match request {
            Some(request) => lib_image::pull(&mut store, &mut locks, &request, &*session.bars)?,
            None => {
                let bars = session.bars.clone();
                let kernel = lib_defaults::make_kernel(&mut store, &mut locks, &*bars)?;
                session.note(&format!("kernel {} is here", kernel.name));
                lib_defaults::make_image(&mut store, &mut locks, &*bars)?
            }
        };
        session.output.emit(record)?;
    }
    Ok(())
}

/// What is to be pulled; none means the host's distribution.
fn request(args: &PullArgs, image: &str) -> Result<Option<PullRequest>, Failure> {
    if image == lib_defaults::HOST {
        return Ok(None);
    }
    let registry = RegistryOptions {
        plain_http: args.plain_http.clone(),
        tls_on_loopback: args.tls,
        credential_files: credential_files(std::env::var_os),
        ..RegistryOptions::default()
    };
    Ok(Some(PullRequest {
        platform: args.platform.clone(),
        registry,
        ..PullRequest::new(Reference::try_from(image)?)
    }))
}
