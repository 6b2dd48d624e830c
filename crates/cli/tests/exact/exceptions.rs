//! Where answers differ from the definition, and why.

/// A property, by the name of its schema or by the endpoint that answers it.
pub struct Exception {
    pub place: &'static str,
    /// Versions of the API; none are all.
    pub versions: &'static [&'static str],
    pub reason: &'static str,
}

const fn always(place: &'static str, reason: &'static str) -> Exception {
    Exception {
        place,
        versions: &[],
        reason,
    }
}

const fn only(
    versions: &'static [&'static str],
    place: &'static str,
    reason: &'static str,
) -> Exception {
    Exception {
        place,
        versions,
        reason,
    }
}

/// Properties that the definition does not know.
pub const MORE: &[Exception] = &[];

/// Places where null stands though the definition does not say so.
pub const NULLS: &[Exception] = &[];

/// Properties that no answer of the scenario has.
pub const UNSENT: &[Exception] = &[];
