//! Ways in for the fuzz targets (`fuzz/`), which can't see what this module keeps to itself. Nothing else is built
//! with them.

use lapin::BasicProperties;
use lapin::message::Delivery;

use super::letter::LetterSummary;
use super::{dead_letters, letters, transport, wire};
use crate::domain::envelope::Envelope;
use crate::ports::Letter;

/// What lapin gets to read of a stream of frames that comes from the broker in `pieces`, on a connection with frames of at
/// most `agreed` bytes; 0: any size.
pub fn mended<'a>(agreed: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    transport::mended(agreed, pieces)
}

/// A delivery as intake gets it.
pub fn envelope(delivery: Delivery) -> Envelope {
    wire::envelope(delivery)
}

/// A letter of the dead-letter queue as an operator sees it.
pub fn summary(delivery: &Delivery) -> LetterSummary {
    LetterSummary::read(delivery)
}

/// What a letter is buried with, on a connection with frames of at most `frame_max` bytes.
pub fn buried(letter: &Letter, frame_max: usize) -> BasicProperties {
    letters::properties(letter, frame_max)
}

/// What a letter is put back with.
pub fn put_back(delivery: &Delivery) -> BasicProperties {
    dead_letters::replayed(delivery)
}
