//! Writes valid input for every target to `corpus/NAME`, where `cargo fuzz run NAME` begins.

use std::fs;
use std::path::Path;

use squadron_integration::fuzz::{Server, TARGETS};

fn main() -> std::io::Result<()> {
    let _server = Server::get();
    for target in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        fs::create_dir_all(&folder)?;
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
        println!("{}: {} seeds", target.name, seeds.len());
    }
    Ok(())
}
