//! SPDY/3.1 frames as far as a client of a runtime's streaming server needs them: streams, data, resets, pings, goodbyes.
//!
//! Flow control is announced by nobody on the other side (runtimes use a library that has none), so window updates are read and let be.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Longest frame that is taken: three bytes of length allow 16 MiB, and runtimes send 32 KiB.
const MAX_FRAME: usize = 1 << 20;
const VERSION: u16 = 3;

pub const FIN: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        headers: Vec<(String, String)>,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Vec<(String, String)>,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
    /// Settings, headers, window updates and what comes later: nothing that a client must answer.
    Other,
}

/// Writes frames. Header blocks of one connection share one compression, so frames go out in the order in which they were encoded.
#[derive(Debug)]
pub struct Encoder {
    zlib: Compress,
}

/// Reads frames from bytes as they come.
#[derive(Debug)]
pub struct Decoder {
    zlib: Decompress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary())
            .expect("a fresh stream takes a dictionary");
        Encoder { zlib }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            zlib: Decompress::new(true),
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {what}"))
}

impl Encoder {
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> io::Result<()> {
        match frame {
            Frame::Data { stream, fin, data } => {
                out.put_u32(stream & 0x7fff_ffff);
                let length = u32::try_from(data.len())
                    .ok()
                    .filter(|l| *l < 1 << 24)
                    .ok_or_else(|| bad("data too long"))?;
                out.put_u32(u32::from(*fin) << 24 | length);
                out.extend_from_slice(data);
            }
            Frame::SynStream { stream, fin, headers } => {
                let block = self.block(headers)?;
                control(1, *fin, 10 + block.len(), out);
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.extend_from_slice(&block);
            }
            Frame::SynReply { stream, fin, headers } => {
                let block = self.block(headers)?;
                control(2, *fin, 4 + block.len(), out);
                out.put_u32(*stream);
                out.extend_from_slice(&block);
            }
            Frame::Reset { stream, status } => {
                control(3, false, 8, out);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Ping(id) => {
                control(6, false, 4, out);
                out.put_u32(*id);
            }
            Frame::GoAway { last, status } => {
                control(7, false, 8, out);
                out.put_u32(*last);
                out.put_u32(*status);
            }
            Frame::Other => {}
        }
        Ok(())
    }

    fn block(&mut self, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
        let mut plain = BytesMut::new();
        let length = |n: usize| u32::try_from(n).map_err(|_| bad("header too long"));
        plain.put_u32(length(headers.len())?);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(length(text.len())?);
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let before = self.zlib.total_in();
        loop {
            let done = usize::try_from(self.zlib.total_in() - before).unwrap_or(usize::MAX);
            packed.reserve(256);
            let left = packed.capacity() - packed.len();
            self.zlib
                .compress_vec(&plain[done.min(plain.len())..], &mut packed, FlushCompress::Sync)
                .map_err(|_| bad("header compression"))?;
            let done = usize::try_from(self.zlib.total_in() - before).unwrap_or(usize::MAX);
            // All is in, and the flush left room to spare: nothing is held back.
            if done >= plain.len() && packed.capacity() > packed.len() && left > 0 {
                return Ok(packed);
            }
        }
    }
}

fn control(kind: u16, fin: bool, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(fin) << 24 | length as u32);
}

impl Decoder {
    /// The next frame, or none while more bytes are needed.
    pub fn decode(&mut self, from: &mut BytesMut) -> io::Result<Option<Frame>> {
        if from.len() < 8 {
            return Ok(None);
        }
        let length = u32::from_be_bytes([0, from[5], from[6], from[7]]) as usize;
        if length > MAX_FRAME {
            return Err(bad("frame too long"));
        }
        if from.len() < 8 + length {
            from.reserve(8 + length - from.len());
            return Ok(None);
        }
        let mut head = from.split_to(8);
        let mut body = from.split_to(length).freeze();
        let fin = head[4] & FIN != 0;
        let first = head.get_u32();
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data {
                stream: first,
                fin,
                data: body,
            }));
        }
        if (first >> 16) & 0x7fff != u32::from(VERSION) {
            return Err(bad("another version"));
        }
        let need = |body: &Bytes, n: usize| {
            if body.len() < n {
                Err(bad("frame too short"))
            } else {
                Ok(())
            }
        };
        Ok(Some(match first & 0xffff {
            1 => {
                need(&body, 10)?;
                let stream = body.get_u32();
                body.advance(6);
                Frame::SynStream {
                    stream,
                    fin,
                    headers: self.headers(&body)?,
                }
            }
            2 => {
                need(&body, 4)?;
                let stream = body.get_u32();
                Frame::SynReply {
                    stream,
                    fin,
                    headers: self.headers(&body)?,
                }
            }
            3 => {
                need(&body, 8)?;
                Frame::Reset {
                    stream: body.get_u32(),
                    status: body.get_u32(),
                }
            }
            6 => {
                need(&body, 4)?;
                Frame::Ping(body.get_u32())
            }
            7 => {
                need(&body, 8)?;
                Frame::GoAway {
                    last: body.get_u32(),
                    status: body.get_u32(),
                }
            }
            8 => {
                need(&body, 4)?;
                body.advance(4);
                // Its block belongs to the one compression of the connection and has to be read.
                self.headers(&body)?;
                Frame::Other
            }
            _ => Frame::Other,
        }))
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Vec<(String, String)>> {
        let mut plain = Vec::with_capacity(1024);
        let start = self.zlib.total_in();
        loop {
            let done = usize::try_from(self.zlib.total_in() - start).unwrap_or(usize::MAX);
            let rest = &block[done.min(block.len())..];
            if plain.len() > MAX_FRAME {
                return Err(bad("headers too long"));
            }
            plain.reserve(1024);
            match self.zlib.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {
                    let now = usize::try_from(self.zlib.total_in() - start).unwrap_or(usize::MAX);
                    if now >= block.len() && plain.len() < plain.capacity() {
                        break;
                    }
                    if now == done && plain.len() < plain.capacity() {
                        return Err(bad("header block is cut"));
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&dictionary())
                        .map_err(|_| bad("another dictionary"))?;
                }
                Err(_) => return Err(bad("header compression")),
            }
        }
        let mut plain = Bytes::from(plain);
        let number = |from: &mut Bytes| {
            if from.len() < 4 {
                Err(bad("headers are cut"))
            } else {
                Ok(from.get_u32() as usize)
            }
        };
        let text = |from: &mut Bytes| -> io::Result<String> {
            let length = number(from)?;
            if from.len() < length {
                return Err(bad("headers are cut"));
            }
            String::from_utf8(from.split_to(length).to_vec()).map_err(|_| bad("a header is not text"))
        };
        let count = number(&mut plain)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((text(&mut plain)?, text(&mut plain)?));
        }
        Ok(headers)
    }
}

/// The dictionary that SPDY/3 prescribes for header compression: words with their lengths, then a run of plain text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards \
        pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding \
        upgrade user-agent vary via warning www-authenticate method get status 200\u{a0}OK version HTTP/1.1 url public \
        set-cookie keep-alive origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
        Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
        Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May \
        Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,\
        image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=\
        gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('\u{a0}', " ");
        out.extend((word.len() as u32).to_be_bytes());
        out.extend(word.as_bytes());
    }
    out.extend(TEXT.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let headers = prop::collection::vec(("[a-z-]{1,20}", "[ -~]{0,200}"), 0..6);
        prop_oneof![
            (1..1000u32, any::<bool>(), headers.clone()).prop_map(|(stream, fin, headers)| Frame::SynStream {
                stream,
                fin,
                headers
            }),
            (1..1000u32, any::<bool>(), headers).prop_map(|(stream, fin, headers)| Frame::SynReply {
                stream,
                fin,
                headers
            }),
            (1..1000u32, any::<bool>(), prop::collection::vec(any::<u8>(), 0..3000)).prop_map(|(stream, fin, data)| {
                Frame::Data {
                    stream,
                    fin,
                    data: data.into(),
                }
            }),
            any::<u32>().prop_map(Frame::Ping),
            (any::<u32>(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
            (any::<u32>(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_whatever_the_pieces(all in prop::collection::vec(frames(), 1..12), piece in 1..500usize) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            let mut wire = BytesMut::new();
            for frame in &all {
                encoder.encode(frame, &mut wire).unwrap();
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for part in wire.chunks(piece) {
                buffer.extend_from_slice(part);
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, all);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }
    }

    #[test]
    fn the_dictionary_is_the_prescribed_one() {
        // Length and Adler-32 checksum as every implementation of SPDY/3 has them.
        let words = dictionary();
        assert_eq!(words.len(), 1423);
        let (mut a, mut b) = (1u32, 0u32);
        for byte in words {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }
}
