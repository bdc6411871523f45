//! `layers IMAGE TAR...`: writes uncompressed layers, topmost first, as ext4, and says how long it
//! took.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::time::Instant;

use lib_fs::{Layer, Options, build};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().ok_or("usage: layers IMAGE TAR...")?;
    let image = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(image)?;
    let layers = arguments.map(|path| Layer {
        name: path.clone(),
        open: Box::new(move || Ok(Box::new(File::open(path)?))),
    });
    let start = Instant::now();
    let summary = build(layers, &image, &Options::default(), &|_| {})?;
    writeln!(std::io::stdout(), "{summary:?} in {:?}", start.elapsed())?;
    Ok(())
}
