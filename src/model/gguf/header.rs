//! The header of a GGUF file: its metadata, and where each tensor lies.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.
//! No number of the file is trusted: counts and lengths are checked against the bytes that are left
//! before anything is allocated, and every tensor must end within the file. candle's own reader
//! multiplies dimensions and divides by the alignment unchecked, and does not name what it refuses.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};

use candle_core::quantized::GgmlDType;

use crate::error::{Error, Result};

/// A value of the metadata. Numbers keep their sign and lose their width.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    /// Numbers, or truth values as 0 and 1.
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

/// A tensor: its type, its shape with the outermost dimension first, and its place.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    pub kind: Kind,
    pub shape: Vec<usize>,
    /// The first byte in the file.
    pub start: u64,
}

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(u32);

#[derive(Debug)]
pub struct Header {
    pub metadata: HashMap<String, Value>,
    pub tensors: HashMap<String, TensorInfo>,
}

/// No header is longer: the vocabulary of Gemma 3 takes 12 MB.
const MAX_HEADER: u64 = 1 << 27;

/// ggml's limit, and where tensors begin when the file does not say.
const MAX_DIMENSIONS: u32 = 4;
const ALIGNMENT: u64 = 32;

impl Kind {
    /// ggml's name (`ggml_type` in ggml.h).
    pub fn name(self) -> String {
        let name = match self.0 {
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            40 => "NVFP4",
            other => return format!("type {other}"),
        };
        name.to_owned()
    }

    /// candle's type, of those that can be read.
    pub fn dtype(self) -> Option<GgmlDType> {
        match self.0 {
            0 => Some(GgmlDType::F32),
            1 => Some(GgmlDType::F16),
            2 => Some(GgmlDType::Q4_0),
            3 => Some(GgmlDType::Q4_1),
            6 => Some(GgmlDType::Q5_0),
            7 => Some(GgmlDType::Q5_1),
            8 => Some(GgmlDType::Q8_0),
            12 => Some(GgmlDType::Q4K),
            13 => Some(GgmlDType::Q5K),
            14 => Some(GgmlDType::Q6K),
            30 => Some(GgmlDType::BF16),
            _ => None,
        }
    }
}

impl TensorInfo {
    /// The bytes of a row of the innermost dimension; nothing when it is no whole number of blocks or
    /// the type is not one that can be read.
    pub fn row_bytes(&self) -> Option<u64> {
        let dtype = self.kind.dtype()?;
        let (numbers, size) = (dtype.block_size(), dtype.type_size());
        let width = *self.shape.last()?;
        width
            .is_multiple_of(numbers)
            .then(|| (width / numbers) as u64)?
            .checked_mul(size as u64)
    }

    /// The first byte after the tensor; nothing when no file could hold it.
    fn end(&self) -> Option<u64> {
        let (_, outer) = self.shape.split_last()?;
        let rows = outer.iter().try_fold(1u64, |rows, n| rows.checked_mul(*n as u64))?;
        self.start.checked_add(rows.checked_mul(self.row_bytes()?)?)
    }
}

impl Header {
    pub fn read(file: &File) -> Result<Self> {
        let length = file
            .metadata()
            .map_err(|error| Error::unexpected("the size of the file is unknown").because(error))?
            .len();
        let mut bytes = Bytes {
            inner: BufReader::with_capacity(1 << 16, file),
            left: length.min(MAX_HEADER),
            consumed: 0,
            length,
        };
        bytes.magic()?;
        let (tensor_count, metadata_count) = (bytes.u64()?, bytes.u64()?);
        // The least that an entry takes: a length, a type, a byte; a length, dimensions, a type, a place.
        bytes.check_count(metadata_count, 13, "metadata entries")?;
        bytes.check_count(tensor_count, 32, "tensors")?;
        let mut metadata = HashMap::new();
        for _ in 0..metadata_count {
            let key = bytes.text()?;
            let value = bytes.value().map_err(|error| in_entry(&key, error))?;
            metadata.insert(key, value);
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let (name, info) = bytes.tensor()?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(damaged(format!("it has the tensor `{name}` twice")));
            }
        }
        let mut header = Self { metadata, tensors };
        header.place(bytes.consumed, length)?;
        Ok(header)
    }

    /// The value of `key`, as `read` understands it; nothing when the key is absent.
    fn get<'a, T>(&'a self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .ok_or_else(|| Error::input(format!("`{key}` of the file is not {what}")))
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a size", |value| match value {
            Value::Integer(n) => usize::try_from(*n).ok(),
            // One for each layer, which the decoder has only where they agree.
            Value::Numbers(all) if all.iter().all(|n| *n == all[0] && *n >= 0.0) => all.first().map(|n| *n as usize),
            _ => None,
        })
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number", |value| match value {
            Value::Float(x) => x.is_finite().then_some(*x),
            Value::Integer(n) => Some(*n as f64),
            _ => None,
        })
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.get(key, "a list of texts", |value| match value {
            Value::Texts(texts) => Some(texts.as_slice()),
            // An empty list has no type to speak of.
            Value::Numbers(numbers) if numbers.is_empty() => Some(&[]),
            _ => None,
        })
    }

    pub fn numbers(&self, key: &str) -> Result<Option<&[f64]>> {
        self.get(key, "a list of numbers", |value| match value {
            Value::Numbers(numbers) => Some(numbers.as_slice()),
            Value::Texts(texts) if texts.is_empty() => Some(&[]),
            _ => None,
        })
    }

    /// Turns offsets within the data, which begins after `consumed` bytes, into places in the file.
    fn place(&mut self, consumed: u64, length: u64) -> Result<()> {
        let alignment = match self.metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Integer(n)) if (1..=1 << 20).contains(n) => *n as u64,
            Some(other) => return Err(damaged(format!("`general.alignment` is {other:?}"))),
        };
        let data = consumed.next_multiple_of(alignment);
        for (name, info) in &mut self.tensors {
            info.start = info.start.saturating_add(data);
            // What cannot be read has a length that is not known here.
            let Some(dtype) = info.kind.dtype() else { continue };
            if info.row_bytes().is_none() {
                let (shape, block) = (&info.shape, dtype.block_size());
                return Err(damaged(format!(
                    "the tensor `{name}` of shape {shape:?} is not cut into blocks of {block}"
                )));
            }
            match info.end() {
                Some(end) if end <= length => {}
                _ => {
                    return Err(truncated(format!(
                        "the tensor `{name}` ends beyond the {length} bytes of the file"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Says which entry of the metadata an error is about.
fn in_entry(key: &str, error: Error) -> Error {
    let key: String = key.chars().take(80).collect();
    let help = error.help_text().map(str::to_owned);
    let named = Error::input(format!("`{key}`: {}", error.message()));
    match help {
        Some(help) => named.help(help),
        None => named,
    }
}

fn damaged(what: String) -> Error {
    Error::input(format!("not a usable GGUF file: {what}")).help("the file may be damaged: copy it again")
}

fn truncated(what: String) -> Error {
    Error::input(format!("not a complete GGUF file: {what}"))
        .help("the file may be truncated: copy it again and compare its size")
}

/// The bytes of a header, in order.
struct Bytes<'a> {
    inner: BufReader<&'a File>,
    /// Bytes that a header may still have.
    left: u64,
    consumed: u64,
    /// Bytes of the whole file.
    length: u64,
}

impl Bytes<'_> {
    fn need(&self, bytes: u64) -> Result<()> {
        if bytes <= self.left {
            return Ok(());
        }
        if self.consumed + self.left < self.length {
            return Err(damaged(format!("its header is longer than {MAX_HEADER} bytes")));
        }
        Err(truncated(format!("it ends in its header, after {} bytes", self.length)))
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        let count = out.len() as u64;
        self.need(count)?;
        self.inner
            .read_exact(out)
            .map_err(|error| Error::unexpected("the file cannot be read").because(error))?;
        self.left -= count;
        self.consumed += count;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn magic(&mut self) -> Result<()> {
        let foreign = "not a GGUF file: its first bytes are not `GGUF`";
        let magic = match self.length {
            0..4 => return Err(truncated(format!("it has {} bytes", self.length))),
            _ => self.take::<4>()?,
        };
        if &magic != b"GGUF" {
            return Err(Error::input(foreign).help("give a file that llama.cpp's convert_hf_to_gguf.py wrote"));
        }
        match self.u32()? {
            2 | 3 => Ok(()),
            1 => Err(unreadable("GGUF version 1 is not supported")),
            version if (2..=3).contains(&version.swap_bytes()) => Err(unreadable("the file is big-endian")),
            version => Err(unreadable(&format!("GGUF version {version} is not supported"))),
        }
    }

    /// An error unless `count` things of at least `least` bytes can follow.
    fn check_count(&self, count: u64, least: u64, things: &str) -> Result<()> {
        let least = count.checked_mul(least);
        if least.is_some_and(|least| least <= self.left) {
            return Ok(());
        }
        let left = self.left;
        Err(truncated(format!(
            "{count} {things} do not fit in the {left} bytes left"
        )))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        self.need(length)?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn value(&mut self) -> Result<Value> {
        const ARRAY: u32 = 9;
        match self.u32()? {
            ARRAY => self.array(),
            kind => self.scalar(kind),
        }
    }

    fn scalar(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(self.take().map(u8::from_le_bytes)?.into()),
            1 => Value::Integer(self.take().map(i8::from_le_bytes)?.into()),
            2 => Value::Integer(self.take().map(u16::from_le_bytes)?.into()),
            3 => Value::Integer(self.take().map(i16::from_le_bytes)?.into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(self.take().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.take().map(f32::from_le_bytes)?.into()),
            7 => Value::Bool(self.take::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            // Beyond i64 there is no size or token that could be meant.
            10 => Value::Integer(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Integer(self.take().map(i64::from_le_bytes)?),
            12 => Value::Float(self.take().map(f64::from_le_bytes)?),
            other => return Err(damaged(format!("a value has the unknown type {other}"))),
        })
    }

    fn array(&mut self) -> Result<Value> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            other => return Err(damaged(format!("an array holds the unknown type {other}"))),
        };
        self.check_count(count, least, "elements of an array")?;
        const TEXT: u32 = 8;
        if kind == TEXT {
            return (0..count).map(|_| self.text()).collect::<Result<_>>().map(Value::Texts);
        }
        let number = |value| match value {
            Value::Integer(n) => n as f64,
            Value::Float(x) => x,
            Value::Bool(flag) => f64::from(u8::from(flag)),
            Value::Text(_) | Value::Numbers(_) | Value::Texts(_) => f64::NAN,
        };
        let numbers = (0..count).map(|_| self.scalar(kind).map(number));
        numbers.collect::<Result<_>>().map(Value::Numbers)
    }

    fn tensor(&mut self) -> Result<(String, TensorInfo)> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(damaged(format!("the tensor `{name}` has {dimensions} dimensions")));
        }
        let mut shape = (0..dimensions)
            .map(|_| {
                let size = self.u64()?;
                usize::try_from(size).map_err(|_| damaged(format!("the tensor `{name}` is {size} wide")))
            })
            .collect::<Result<Vec<_>>>()?;
        shape.reverse();
        let kind = Kind(self.u32()?);
        let start = self.u64()?;
        Ok((name, TensorInfo { kind, shape, start }))
    }
}

fn unreadable(what: &str) -> Error {
    Error::input(what)
        .help("versions 2 and 3 in little-endian order are read: convert the model again with a current llama.cpp")
}
