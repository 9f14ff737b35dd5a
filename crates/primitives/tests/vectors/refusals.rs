//! The library's refusals by the names of the format's page.

use keystrata_primitives::{
    ContextError, RecordError,
    envelope::{EnvelopeError, OpenError, RewrapError, TextError},
};

use crate::schema::Refusal;

fn context_refusal(error: &ContextError) -> Refusal {
    match error {
        ContextError::TooManyPairs(_) => Refusal::ContextTooManyPairs,
        ContextError::TooLong(_) => Refusal::ContextTooLong,
        ContextError::EmptyName => Refusal::ContextEmptyName,
        ContextError::DuplicateName { .. } => Refusal::ContextDuplicateName,
        other => panic!("a refusal without a name: {other:?}"),
    }
}

fn envelope_refusal(error: &EnvelopeError) -> Refusal {
    match error {
        EnvelopeError::Empty => Refusal::Empty,
        EnvelopeError::NotAnEnvelope => Refusal::NotAnEnvelope,
        EnvelopeError::UnknownVersion(_) => Refusal::UnknownVersion,
        EnvelopeError::UnknownSuite(_) => Refusal::UnknownSuite,
        EnvelopeError::Truncated { .. } => Refusal::Truncated,
        EnvelopeError::TooLong { .. } => Refusal::TooLong,
        other => panic!("a refusal without a name: {other:?}"),
    }
}

pub(crate) fn text_refusal(error: &TextError) -> Refusal {
    match error {
        TextError::Empty => Refusal::TextEmpty,
        TextError::NoPrefix => Refusal::TextNoPrefix,
        TextError::BadCharacter { .. } => Refusal::TextBadCharacter,
        TextError::BadLength { .. } => Refusal::TextBadLength,
        TextError::StrayBits => Refusal::TextStrayBits,
        other => panic!("a refusal without a name: {other:?}"),
    }
}

pub(crate) fn rewrap_refusal(error: &RewrapError) -> Refusal {
    match error {
        RewrapError::Envelope(error) => envelope_refusal(error),
        RewrapError::SuiteMismatch { .. } => Refusal::SuiteMismatch,
        RewrapError::NewSuite { .. } => Refusal::RewrapNewSuite,
        RewrapError::OtherAccount { .. } => Refusal::RewrapOtherAccount,
        RewrapError::Rejected => Refusal::Rejected,
        other => panic!("a refusal without a name: {other:?}"),
    }
}

pub(crate) fn open_refusal(error: &OpenError) -> Refusal {
    match error {
        OpenError::Envelope(error) => envelope_refusal(error),
        OpenError::Context(error) => context_refusal(error),
        OpenError::SuiteMismatch { .. } => Refusal::SuiteMismatch,
        OpenError::Rejected => Refusal::Rejected,
        other => panic!("a refusal without a name: {other:?}"),
    }
}

pub(crate) fn record_refusal(error: &RecordError) -> Refusal {
    match error {
        RecordError::NotARecord => Refusal::NotARecord,
        RecordError::UnknownVersion(_) => Refusal::UnknownVersion,
        RecordError::UnknownSuite(_) => Refusal::UnknownSuite,
        RecordError::UnknownState(_) => Refusal::UnknownState,
        RecordError::UnknownWrapper(_) => Refusal::UnknownWrapper,
        RecordError::Malformed(_) => Refusal::Malformed,
        other => panic!("a refusal without a name: {other:?}"),
    }
}
