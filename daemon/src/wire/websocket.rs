//! The server's end of a WebSocket (RFC 6455): handshake key, frames in and out.

use std::io;

use base64::Engine;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message that is taken; clients of the API send 32 KiB.
const MAX_MESSAGE: usize = 4 << 20;
/// What is read at once.
const READ: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text or binary.
    Data(Bytes),
    Ping(Bytes),
    Close,
}

/// What a client wants to see in answer to its `Sec-WebSocket-Key`.
pub fn accept(key: &str) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finish())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {what}"))
}

#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    buffer: BytesMut,
    /// Of a message in several frames.
    parts: Option<BytesMut>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(inner: R) -> Self {
        Reader {
            inner,
            buffer: BytesMut::new(),
            parts: None,
        }
    }

    /// The next message; none at the end of the connection. May be dropped and called again at any time.
    pub async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.ready()? {
                return Ok(Some(message));
            }
            self.buffer.reserve(READ);
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// A message that has been read already.
    pub fn ready(&mut self) -> io::Result<Option<Message>> {
        while let Some((last, op, data)) = frame(&mut self.buffer)? {
            match (op, &mut self.parts) {
                (8, _) => return Ok(Some(Message::Close)),
                (9, _) => return Ok(Some(Message::Ping(data))),
                (10, _) => {}
                (1 | 2, None) if last => return Ok(Some(Message::Data(data))),
                (1 | 2, parts @ None) => *parts = Some(BytesMut::from(&data[..])),
                (0, Some(parts)) => {
                    if parts.len() + data.len() > MAX_MESSAGE {
                        return Err(bad("message too long"));
                    }
                    parts.extend_from_slice(&data);
                    if last {
                        return Ok(self.parts.take().map(|whole| Message::Data(whole.freeze())));
                    }
                }
                (0..=2, _) => return Err(bad("a fragment out of place")),
                _ => return Err(bad("unknown kind of frame")),
            }
        }
        Ok(None)
    }

    /// Reads to the end of the connection and drops what comes.
    pub async fn drain(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(READ);
        while self.inner.read_buf(&mut self.buffer).await? > 0 {
            self.buffer.clear();
        }
        Ok(())
    }
}

fn frame(buffer: &mut BytesMut) -> io::Result<Option<(bool, u8, Bytes)>> {
    if buffer.len() < 2 {
        return Ok(None);
    }
    let (first, second) = (buffer[0], buffer[1]);
    if second & 0x80 == 0 {
        return Err(bad("a client's frames are masked"));
    }
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let head = 2 + extended + 4;
    if buffer.len() < head {
        return Ok(None);
    }
    let length = match extended {
        2 => u64::from(u16::from_be_bytes([buffer[2], buffer[3]])),
        8 => {
            let mut eight = [0; 8];
            eight.copy_from_slice(&buffer[2..10]);
            u64::from_be_bytes(eight)
        }
        _ => u64::from(second & 0x7f),
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|l| *l <= MAX_MESSAGE)
        .ok_or_else(|| bad("message too long"))?;
    if buffer.len() < head + length {
        return Ok(None);
    }
    let mut mask = [0; 4];
    mask.copy_from_slice(&buffer[head - 4..head]);
    buffer.advance(head);
    let mut data = buffer.split_to(length);
    unmask(&mut data, mask);
    Ok(Some((first & 0x80 != 0, first & 0x0f, data.freeze())))
}

fn unmask(data: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let eight = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = data.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().expect("a chunk has eight bytes"));
        chunk.copy_from_slice(&(word ^ eight).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends one unmasked frame, made of a short prefix and the data.
pub fn put(out: &mut BytesMut, op: Op, prefix: &[u8], data: &[u8]) {
    let length = prefix.len() + data.len();
    out.reserve(length + 10);
    out.put_u8(0x80 | op as u8);
    match length {
        0..=125 => out.put_u8(length as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
    out.extend_from_slice(prefix);
    out.extend_from_slice(data);
}

/// Writes one unmasked frame.
pub async fn write(out: &mut (impl AsyncWrite + Unpin), op: Op, data: &[u8]) -> io::Result<()> {
    let mut frame = BytesMut::new();
    put(&mut frame, op, &[], data);
    out.write_all(&frame).await?;
    out.flush().await
}

/// Says goodbye with a status code; nothing is sent after it.
pub async fn close(out: &mut (impl AsyncWrite + Unpin), code: u16) -> io::Result<()> {
    write(out, Op::Close, &code.to_be_bytes()).await?;
    out.shutdown().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(op: u8, data: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![op];
        match data.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(data.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        out
    }

    #[test]
    fn the_handshake_answers_as_the_standard_says() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn messages_are_unmasked_and_joined() {
        let long = vec![7u8; 300];
        let mut wire = masked(0x82, b"\x00hello");
        wire.extend(masked(0x02, b"ab"));
        wire.extend(masked(0x89, b"p"));
        wire.extend(masked(0x80, b"cd"));
        wire.extend(masked(0x82, &long));
        wire.extend(masked(0x88, b""));
        let mut reader = Reader::new(&wire[..]);
        let mut all = Vec::new();
        while let Some(message) = reader.next().await.unwrap() {
            all.push(message);
        }
        let data = |bytes: &[u8]| Message::Data(Bytes::copy_from_slice(bytes));
        let want = [
            data(b"\x00hello"),
            Message::Ping(Bytes::from_static(b"p")),
            data(b"abcd"),
            data(&long),
            Message::Close,
        ];
        assert_eq!(all, want);
    }

    #[tokio::test]
    async fn an_unmasked_frame_is_refused() {
        let mut reader = Reader::new(&[0x82u8, 1, 0][..]);
        assert!(reader.next().await.is_err());
    }

    /// A client's frame: whether it ends its message, its kind, its mask and its data.
    fn framed(last: bool, op: u8, mask: [u8; 4], data: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put(&mut out, Op::Binary, &[], data);
        out[0] = u8::from(last) << 7 | op;
        out[1] |= 0x80;
        let head = out.len() - data.len();
        let mut frame = out[..head].to_vec();
        frame.extend(mask);
        frame.extend(data.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        frame
    }

    fn read_all(wire: &[u8], piece: usize) -> Vec<Message> {
        let mut reader = Reader::new(tokio::io::empty());
        let mut all = Vec::new();
        for part in wire.chunks(piece) {
            reader.buffer.extend_from_slice(part);
            while let Some(message) = reader.ready().unwrap() {
                all.push(message);
            }
        }
        all
    }

    fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..200),
            1 => prop::collection::vec(any::<u8>(), 65_000..66_000),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn messages_read_the_same_however_they_are_cut(
            messages in prop::collection::vec((prop::collection::vec(some_bytes(), 1..4), any::<[u8; 4]>(), any::<bool>()), 1..5),
            piece in 1..3000usize,
        ) {
            let (mut wire, mut want) = (Vec::new(), Vec::new());
            for (fragments, mask, pinged) in &messages {
                for (position, fragment) in fragments.iter().enumerate() {
                    if *pinged && position > 0 {
                        // Control frames may come between fragments.
                        wire.extend(framed(true, 9, *mask, b"ping"));
                        want.push(Message::Ping(Bytes::from_static(b"ping")));
                    }
                    let op = if position == 0 { 2 } else { 0 };
                    wire.extend(framed(position + 1 == fragments.len(), op, *mask, fragment));
                }
                want.push(Message::Data(fragments.concat().into()));
            }
            prop_assert_eq!(&read_all(&wire, piece), &want);
            prop_assert_eq!(&read_all(&wire, wire.len()), &want);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = Reader::new(tokio::io::empty());
            reader.buffer.extend_from_slice(&bytes);
            while let Ok(Some(_)) = reader.ready() {}
        }
    }

    #[tokio::test]
    async fn fragments_out_of_place_are_refused() {
        for wire in [
            framed(true, 0, [0; 4], b"a"),
            [framed(false, 2, [0; 4], b"a"), framed(true, 2, [0; 4], b"b")].concat(),
            framed(true, 3, [0; 4], b""),
        ] {
            let mut reader = Reader::new(&wire[..]);
            assert!(reader.next().await.is_err());
        }
    }
}
