//! What a connection is for, from the first bytes that its client sends.

use super::proxy::Kind;

/// Codes of SSLRequest, GSSENCRequest: eight bytes, after which the startup packet still comes.
const REQUESTS: [u32; 2] = [80_877_103, 80_877_104];
/// Protocol 3.x.
const MAJOR: u32 = 3;
/// PostgreSQL accepts no longer startup packet.
const MAX_STARTUP: usize = 10_000;

/// Gathers bytes until they tell.
#[derive(Debug, Default)]
pub(super) struct Sniffer {
    bytes: Vec<u8>,
}

impl Sniffer {
    /// Takes the next bytes of the client.
    pub(super) fn see(&mut self, bytes: &[u8]) -> Option<Kind> {
        self.bytes.extend_from_slice(bytes);
        loop {
            let (length, code) = (self.word(0)? as usize, self.word(4)?);
            if length == 8 && REQUESTS.contains(&code) {
                self.bytes.drain(..8);
                continue;
            }
            if code >> 16 != MAJOR || !(8..=MAX_STARTUP).contains(&length) {
                return Some(Kind::Ordinary);
            }
            let mut fields = self.bytes.get(8..length)?.split(|&byte| byte == 0);
            while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
                if name == b"replication" && !matches!(value, b"" | b"0" | b"off" | b"no" | b"false") {
                    return Some(Kind::Replication);
                }
            }
            return Some(Kind::Ordinary);
        }
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(fields: &str) -> Vec<u8> {
        let mut packet = (8 + fields.len() as u32).to_be_bytes().to_vec();
        packet.extend(196_608u32.to_be_bytes());
        packet.extend(fields.as_bytes());
        packet
    }

    #[test]
    fn a_replication_connection_says_so() {
        for (fields, kind) in [
            ("user\0a\0replication\0database\0\0", Kind::Replication),
            ("user\0replication\0database\0a\0\0", Kind::Ordinary),
            ("user\0a\0replication\0false\0\0", Kind::Ordinary),
        ] {
            assert_eq!(Sniffer::default().see(&startup(fields)), Some(kind), "{fields:?}");
        }
    }

    #[test]
    fn it_takes_pieces_and_looks_behind_a_request_for_tls() {
        let mut sniffer = Sniffer::default();
        let mut bytes = [8u32.to_be_bytes(), REQUESTS[0].to_be_bytes()].concat();
        bytes.extend(startup("user\0a\0replication\0true\0\0"));
        let (last, first) = bytes.split_last().expect("bytes");
        for byte in first {
            assert_eq!(sniffer.see(&[*byte]), None);
        }
        assert_eq!(sniffer.see(&[*last]), Some(Kind::Replication));
    }

    #[test]
    fn another_protocol_is_ordinary() {
        assert_eq!(Sniffer::default().see(b"*2\r\n$5\r\nHELLO"), Some(Kind::Ordinary));
    }
}
