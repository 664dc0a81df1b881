//! Finds the frames in what the broker sends, however it is cut into pieces, and has those mended that describe a
//! message. Bodies and all else go by untouched.

use super::mend;

/// Frame types of AMQP 0-9-1, section 2.3.5 of the specification.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// Type, channel and size.
const START: usize = 7;
/// The byte that ends a frame.
const END: usize = 1;
/// A frame that says it is larger is not held back to be looked at.
const LARGEST: usize = 16 << 20;
/// Room for so many bytes is kept, also after larger frames.
const KEPT: usize = 1 << 18;

/// What came, and what of it can be given on.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The frame that is not whole yet.
    held: Vec<u8>,
    /// So much of the frame that goes by is still to come.
    passing: usize,
    ready: Vec<u8>,
    /// So much of `ready` was taken.
    taken: usize,
    /// What lapin takes at most, which is less if the broker wants less; 0: any size.
    agreed: usize,
    /// Whether it was said that a message lost its headers.
    said: bool,
}

impl Frames {
    /// For a connection with frames of at most so many bytes; 0: any size.
    pub fn up_to(agreed: usize) -> Self {
        Self { agreed, ..Self::default() }
    }

    /// Takes in what came next.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (now, later) = bytes.split_at(self.passing.min(bytes.len()));
                self.ready.extend_from_slice(now);
                self.passing -= now.len();
                bytes = later;
                continue;
            }
            let missing = self.whole().unwrap_or(START) - self.held.len();
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.held.extend_from_slice(now);
            bytes = later;
            self.release();
        }
    }

    /// Moves on what is mended, at most as much as `into` has room for. Returns how much that was.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let waiting = &self.ready[self.taken..];
        let count = waiting.len().min(into.len());
        into[..count].copy_from_slice(&waiting[..count]);
        self.taken += count;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.ready.shrink_to(KEPT);
            self.taken = 0;
        }
        count
    }

    /// Lets go of the held frame if it is whole, or if nobody has to look at it.
    fn release(&mut self) {
        let Some(whole) = self.whole() else { return };
        let kind = self.held[0];
        let is_looked_at = matches!(kind, METHOD | HEADER) && whole <= LARGEST;
        if !is_looked_at {
            self.passing = whole - self.held.len();
        } else if self.held.len() == whole {
            if kind == HEADER {
                // First, since what is wrong in headers that are left out must not keep the rest from being mended.
                self.make_fit();
                mend::header(self.payload());
            } else {
                if let Some(wanted @ 1..) = mend::tuned(self.payload()) {
                    self.agreed = if self.agreed == 0 { wanted } else { wanted.min(self.agreed) };
                }
                mend::method(self.payload());
            }
        } else {
            return;
        }
        self.ready.append(&mut self.held);
        self.held.shrink_to(KEPT);
    }

    /// RabbitMQ passes a message's headers on in one frame, also if the producer's connection had larger ones than this
    /// has; lapin ends the connection for it.
    fn make_fit(&mut self) {
        if self.agreed == 0 || self.held.len() <= self.agreed {
            return;
        }
        let Some(rest) = mend::without_headers(self.payload()) else { return };
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                bytes = self.held.len(),
                "the headers of a message are larger than a frame may be on this connection; it is taken in without \
                 them. This is said once a connection. Give it larger frames by ?frame_max=BYTES in amqp.url"
            );
        }
        self.held[3..START].copy_from_slice(&u32::try_from(rest.len()).unwrap_or_default().to_be_bytes());
        self.held.splice(START..self.held.len() - END, rest);
    }

    /// Of the held frame, which is whole.
    fn payload(&mut self) -> &mut [u8] {
        let end = self.held.len() - END;
        &mut self.held[START..end]
    }

    /// The length of the held frame, once it can be told.
    fn whole(&self) -> Option<usize> {
        let size = self.held.get(3..START)?;
        let size = size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        Some(START + size + END)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind, 0, 1], &(payload.len() as u32).to_be_bytes()[..], payload, &[0xCE]].concat()
    }

    /// What comes out if the bytes come in pieces of these sizes, and are taken by so many at once.
    fn through(bytes: &[u8], pieces: &[usize], room: usize) -> Vec<u8> {
        let (mut frames, mut out, mut at) = (Frames::default(), Vec::new(), 0);
        let mut sizes = pieces.iter().copied().chain(std::iter::repeat(bytes.len()));
        let mut into = vec![0; room];
        while at < bytes.len() {
            let to = bytes.len().min(at + sizes.next().unwrap_or(1));
            frames.feed(&bytes[at..to]);
            at = to;
            loop {
                match frames.take(&mut into) {
                    0 => break,
                    count => out.extend_from_slice(&into[..count]),
                }
            }
        }
        out
    }

    /// A header frame whose content type has these bytes.
    fn described(content_type: &[u8]) -> Vec<u8> {
        let text = [&[content_type.len() as u8], content_type].concat();
        frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0][..], &text].concat())
    }

    proptest! {
        #[test]
        fn however_it_is_cut_only_what_describes_a_message_is_mended(
            pieces in vec(1_usize..40, 0..60),
            room in 1_usize..50,
            body in vec(any::<u8>(), 0..100),
        ) {
            let around = [frame(3, &body), frame(8, &[]), frame(3, b"\xff\xfe")].concat();
            let broken = [&described(b"text/\xff")[..], &around, &described(b"\xfe")].concat();
            let expected = [&described(b"text/?")[..], &around, &described(b"?")].concat();
            prop_assert_eq!(through(&broken, &pieces, room), expected);
        }

        #[test]
        fn what_is_not_amqp_goes_by(bytes in vec(any::<u8>(), 0..200), pieces in vec(1_usize..40, 0..20)) {
            // The broker's answer to a version that it does not speak, and what may come after it.
            let bytes = [b"AMQP\0\0\x09\x01", &bytes[..]].concat();
            prop_assert_eq!(through(&bytes, &pieces, 64), bytes);
        }
    }

    #[test]
    fn headers_that_no_frame_has_room_for_are_left_out() {
        let text = |text: &[u8]| [&[text.len() as u8], text].concat();
        let described = |headers: &[u8]| {
            let flags: u16 = if headers.is_empty() { 0x8080 } else { 0xA080 };
            let start = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &flags.to_be_bytes()].concat();
            frame(HEADER, &[&start[..], &text(b"text/plain"), headers, &text(b"id")].concat())
        };
        let headers =
            [&604_u32.to_be_bytes()[..], &text(b"k"), b"x", &597_u32.to_be_bytes(), &[7; 597]].concat();
        let (large, around) = (described(&headers), frame(3, b"body"));
        let stream = [&around[..], &large, &around].concat();
        let small = described(&[]);
        for (agreed, expected) in [(0, &large), (large.len(), &large), (large.len() - 1, &small)] {
            let mut frames = Frames::up_to(agreed);
            frames.feed(&stream);
            let mut into = vec![0; stream.len()];
            let given = frames.take(&mut into);
            assert_eq!(into[..given], [&around[..], expected, &around].concat(), "{agreed}");
        }
        for (asked, tuned, expected) in
            [(0, 600, &small), (1 << 17, 600, &small), (1 << 17, 0, &large), (600, 0, &small)]
        {
            let tune =
                frame(METHOD, &[&[0, 10, 0, 30, 7, 255][..], &u32::to_be_bytes(tuned), &[0, 60]].concat());
            let mut frames = Frames::up_to(asked);
            frames.feed(&[&tune[..], &large].concat());
            let mut into = vec![0; tune.len() + large.len()];
            let given = frames.take(&mut into);
            assert_eq!(into[..given], [&tune[..], expected].concat(), "{asked} {tuned}");
        }
    }

    #[test]
    fn what_is_wrong_in_headers_that_are_left_out_keeps_nothing_from_being_mended() {
        let described = |flags: u16, headers: &[u8], id: &[u8]| {
            let start = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &flags.to_be_bytes()].concat();
            frame(HEADER, &[&start[..], headers, &[id.len() as u8], id].concat())
        };
        // A table of one key and a value of a type that there is not.
        let headers = [&[0, 0, 0, 100, 1, b'k', b'?'][..], &[7; 97]].concat();
        let mut frames = Frames::up_to(64);
        frames.feed(&described(0x2080, &headers, b"\xff"));
        let mut into = [0; 64];
        let given = frames.take(&mut into);
        assert_eq!(into[..given], described(0x0080, &[], b"?"));
    }

    #[test]
    fn a_frame_of_a_size_that_nobody_agreed_on_is_not_held_back() {
        let huge = frame(HEADER, &vec![0xff; LARGEST]);
        let mut frames = Frames::default();
        frames.feed(&huge[..100]);
        assert_eq!(frames.take(&mut [0; 200]), 100);
    }
}
