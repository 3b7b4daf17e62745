//! GGUF files, llama.cpp's format: configuration, weights and tokenizer in one.
//!
//! A file becomes what a checkpoint directory is to the rest of the program: a `config.json` and a
//! `tokenizer.json` are made from its metadata, and its tensors get the names and layouts that they have
//! in transformers. Quantised matrices stay as they are stored.

mod config;
mod header;
mod splitting;
mod tokenizer;
mod weights;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use self::header::Header;
use super::decoder::Decoder;
use super::family;
use super::files::Model;
use super::tokenizer::Tokenizer;
use crate::error::{Error, ErrorKind, Result};
use crate::record::hex;

/// How the name of a GGUF file ends.
pub const EXTENSION: &str = ".gguf";

/// Loads a GGUF file.
pub fn load(reference: &str) -> Result<Model> {
    let path = Path::new(reference);
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    read(&file, reference).map_err(|error| {
        let error = match (error.kind(), error.help_text()) {
            (ErrorKind::Input, None) => {
                error.help("the file may be damaged, or of a model that is not supported: copy it again, or convert the model again")
            }
            _ => error,
        };
        match error.place() {
            None => error.at_file(path),
            Some(_) => error,
        }
    })
}

fn read(file: &File, reference: &str) -> Result<Model> {
    let header = Header::read(file)?;
    let tokenizer = tokenizer::read(&header)?;
    let json = config::read(&header, file, &tokenizer)?.to_string();
    let config = family::parse(&json)?;
    let mut weights = weights::Reader::new(&header, file, &config);
    let decoder = Decoder::build(config.clone(), |spec| weights.read(spec))?;
    weights.check_all_read()?;
    let tokenizer = Tokenizer::new(tokenizer.files, &json)?;
    tokenizer.check_vocabulary(decoder.config.vocab, Path::new(reference))?;
    Ok(Model {
        decoder,
        tokenizer,
        reference: reference.to_owned(),
        sha256: sha256(file)?,
    })
}

/// The hash of the whole file.
fn sha256(mut file: &File) -> Result<String> {
    let failed = |error| Error::unexpected("the file cannot be read").because(error);
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&chunk[..count]),
        }
    }
}

/// The bytes `out.len()` from `start` on.
fn read_at(mut file: &File, start: u64, out: &mut [u8]) -> Result<()> {
    let failed = |error| Error::unexpected("the file cannot be read").because(error);
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    file.read_exact(out).map_err(failed)
}
