//! `layers ext4|erofs IMAGE TAR...`: writes uncompressed layers, topmost first, and says how long
//! it took.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Write};
use std::time::Instant;

use lib_fs::{Compression, Format, Layer, Options, build};

const USAGE: &str = "usage: layers ext4|erofs IMAGE TAR...";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let format = match arguments.next().as_deref() {
        Some("ext4") => Format::Ext4,
        Some("erofs") => Format::Erofs(Compression::Lz4),
        _ => return Err(USAGE.into()),
    };
    let image = arguments.next().ok_or(USAGE)?;
    let image = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(image)?;
    let layers = arguments.map(|path| Layer {
        name: path.clone(),
        open: Box::new(move || {
            Ok(Box::new(BufReader::with_capacity(
                256 << 10,
                File::open(&path)?,
            )))
        }),
        again: true,
    });
    let options = Options {
        format,
        ..Options::default()
    };
    let start = Instant::now();
    let summary = build(layers, &image, &options, &|_| {})?;
    writeln!(std::io::stdout(), "{summary:?} in {:?}", start.elapsed())?;
    Ok(())
}
