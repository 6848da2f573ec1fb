//! How values are written in Redis: as their JSON, and the longer ones compressed.
//!
//! A compressed value is a mark that no JSON begins with, the length of the JSON, and its DEFLATE stream (RFC
//! 1951). The length bounds what reading it may take, whatever the stream says.

use std::borrow::Cow;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

const MARK: u8 = 0x01;
const HEADER_BYTES: usize = 5;
/// The longest JSON that a compressed value may hold. A dashboard with two documents of the largest size has
/// less than a megabyte; a stream that claims more is not one of ours.
const MAX_JSON_BYTES: u32 = 16 * 1024 * 1024;

/// `json` as it is stored. Compressed if it is longer than `above` bytes and becomes shorter by it.
pub(super) fn pack(json: &str, above: u64) -> Cow<'_, [u8]> {
    let plain = Cow::Borrowed(json.as_bytes());
    let Ok(length) = u32::try_from(json.len()) else {
        return plain;
    };
    if u64::from(length) <= above || length > MAX_JSON_BYTES {
        return plain;
    }
    let mut packed = Vec::with_capacity(json.len() / 2);
    packed.push(MARK);
    packed.extend_from_slice(&length.to_le_bytes());
    // The fastest level: JSON shrinks to a third by it, and who waits for the answer waits for this.
    let mut encoder = DeflateEncoder::new(packed, Compression::fast());
    match encoder
        .write_all(json.as_bytes())
        .and_then(|()| encoder.finish())
    {
        Ok(packed) if packed.len() < json.len() => Cow::Owned(packed),
        _ => plain,
    }
}

/// The JSON again. `None`: it is not what [`pack`] wrote.
pub(super) fn unpack(stored: Vec<u8>) -> Option<String> {
    if stored.first() != Some(&MARK) {
        return String::from_utf8(stored).ok();
    }
    let header: [u8; HEADER_BYTES] = *stored.first_chunk()?;
    let [_mark, length @ ..] = header;
    let length = u32::from_le_bytes(length);
    if length > MAX_JSON_BYTES {
        return None;
    }
    let expected = usize::try_from(length).ok()?;
    let stream = stored.get(HEADER_BYTES..)?;
    let mut json = String::with_capacity(expected);
    // One byte more than there may be shows a stream that goes on.
    DeflateDecoder::new(stream)
        .take(u64::from(length) + 1)
        .read_to_string(&mut json)
        .ok()?;
    (json.len() == expected).then_some(json)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    fn long() -> String {
        format!("[{}0]", "\"Tiết kiệm\",".repeat(2_000))
    }

    #[test]
    fn short_values_stay_as_they_are_and_long_ones_come_back_the_same() {
        assert_eq!(pack("{}", 2).as_ref(), b"{}");
        let json = long();
        let packed = pack(&json, 8_192).into_owned();
        assert!(packed.len() * 3 < json.len(), "{}", packed.len());
        assert_eq!(unpack(packed), Some(json.clone()));
        assert_eq!(unpack(json.clone().into_bytes()), Some(json));
    }

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        let digits: String = (0..64_u8)
            .map(|n| char::from(33 + n.wrapping_mul(37) % 90))
            .collect();
        assert_eq!(pack(&digits, 0).as_ref(), digits.as_bytes());
    }

    #[test]
    fn a_stream_that_is_longer_than_it_says_is_refused_without_reading_it() {
        let json = long();
        let mut packed = pack(&json, 0).into_owned();
        // Whether or not it is cut inside a letter.
        for claimed in 100..110_u32 {
            packed.splice(1..HEADER_BYTES, claimed.to_le_bytes());
            assert_eq!(unpack(packed.clone()), None, "{claimed}");
        }
        packed.splice(1..HEADER_BYTES, u32::MAX.to_le_bytes());
        assert_eq!(unpack(packed.clone()), None);
        packed.truncate(40);
        packed.splice(
            1..HEADER_BYTES,
            u32::try_from(json.len()).unwrap().to_le_bytes(),
        );
        assert_eq!(unpack(packed), None, "cut off");
        assert_eq!(unpack(vec![MARK, 1]), None);
        assert_eq!(unpack(vec![0xff]), None);
    }
}
