//! The tensors of a checkpoint in one safetensors file, written from where they lie and with a checksum.
//!
//! Weights and moments are three times a model: they are never copied to be saved. Knows nothing of what they mean.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use candle_core::{CpuStorage, Storage, Tensor};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::atomic;
use crate::error::{Error, Result};
use crate::record::hex;

/// Numbers of a file, borrowed from their owner.
pub enum Numbers<'a> {
    /// In `f32`, contiguous.
    Tensor(&'a Tensor),
    Singles(&'a [f32]),
    Doubles(&'a [f64]),
}

impl Numbers<'_> {
    fn shape(&self) -> Vec<usize> {
        match self {
            Self::Tensor(tensor) => tensor.dims().to_vec(),
            Self::Singles(values) => vec![values.len()],
            Self::Doubles(values) => vec![values.len()],
        }
    }

    fn kind(&self) -> (&'static str, usize) {
        match self {
            Self::Tensor(_) | Self::Singles(_) => ("F32", size_of::<f32>()),
            Self::Doubles(_) => ("F64", size_of::<f64>()),
        }
    }

    fn bytes(&self) -> usize {
        self.shape().iter().product::<usize>() * self.kind().1
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Singles(values) => out.write_all(bytemuck::cast_slice(values)),
            Self::Doubles(values) => out.write_all(bytemuck::cast_slice(values)),
            Self::Tensor(tensor) => {
                let (storage, layout) = tensor.storage_and_layout();
                match (&*storage, layout.contiguous_offsets()) {
                    (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => {
                        out.write_all(bytemuck::cast_slice(&values[start..end]))
                    }
                    _ => Err(io::Error::other("a weight that learns is not a contiguous f32 tensor")),
                }
            }
        }
    }
}

/// Writes to a file and takes the checksum of what is written.
struct Hashing<'a> {
    file: &'a mut File,
    hash: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes `named` numbers, durably and whole or not at all. Answers the checksum of `sealed` and the file after it.
pub fn write(path: &Path, sealed: &str, named: &[(String, Numbers<'_>)]) -> Result<String> {
    let header = header(named);
    let mut digest = String::new();
    atomic::write_with(path, |file| {
        let hash = Sha256::new_with_prefix(sealed);
        let mut out = BufWriter::with_capacity(1 << 20, Hashing { file, hash });
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for (_, numbers) in named {
            numbers.write(&mut out)?;
        }
        let hashing = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        digest = hex(&hashing.hash.finalize());
        Ok(())
    })?;
    Ok(digest)
}

fn header(named: &[(String, Numbers<'_>)]) -> String {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut offset = 0;
    for (name, numbers) in named {
        let end = offset + numbers.bytes();
        header.insert(
            name.clone(),
            json!({ "dtype": numbers.kind().0, "shape": numbers.shape(), "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    // Data begin at a multiple of 8, as the format's own writers have it.
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    text
}

/// The checksum of `sealed` and a file after it.
pub fn checksum(path: &Path, sealed: &str) -> Result<String> {
    let failed = |error| Error::io("read", path, error);
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
    let mut hash = Sha256::new_with_prefix(sealed);
    let mut part = vec![0; 1 << 20];
    loop {
        match file.read(&mut part).map_err(failed)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&part[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Catches: offsets, shapes or a header that the readers of the format do not take; a checksum of something else
    /// than what is read again.
    #[test]
    fn what_is_written_is_safetensors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        let tensor = Tensor::from_vec(vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0], (2, 3), &Device::Cpu).unwrap();
        let named = [
            ("kept".to_owned(), Numbers::Doubles(&[0.1, -7.0])),
            ("weight".to_owned(), Numbers::Tensor(&tensor)),
            ("moment".to_owned(), Numbers::Singles(&[0.5; 3])),
        ];
        let written = write(&path, "step 3", &named).unwrap();
        assert_eq!(checksum(&path, "step 3").unwrap(), written);
        assert_ne!(checksum(&path, "step 4").unwrap(), written);
        let read = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read["kept"].to_vec1::<f64>().unwrap(), [0.1, -7.0]);
        assert_eq!(
            read["weight"].to_vec2::<f32>().unwrap(),
            [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
        );
        assert_eq!(read["moment"].to_vec1::<f32>().unwrap(), [0.5; 3]);
    }

    /// Catches: a column or a transposed view whose memory is written as if it were in order.
    #[test]
    fn what_does_not_lie_in_order_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tensor = Tensor::from_vec(vec![1f32, 2.0, 3.0, 4.0], (2, 2), &Device::Cpu).unwrap();
        let turned = [("weight".to_owned(), Numbers::Tensor(&tensor.t().unwrap()))];
        let path = dir.path().join("state.safetensors");
        assert!(write(&path, "", &turned).is_err());
        assert!(!path.exists());
    }
}
