//! Every reading of a target's path that some upstream might make.
//!
//! An upstream, and each framework and proxy on the way to its handler, may do
//! none, some or all of these, in any order: percent-decode (once, or twice);
//! end the path at a decoded `?`, `#`, NUL or blank; take a back slash for a slash;
//! merge slashes; take `//host` for an authority; resolve dot segments; drop
//! path parameters (`;…`, up to the next slash or to the end); trim blanks; remove tabs and line ends anywhere
//! (the WHATWG URL parser does); fold two non-ASCII letters into ASCII. The
//! readings are the closure of the received path under these steps. Case and
//! one trailing slash are left to the comparison.

use std::collections::HashSet;

/// The most readings that are worked out; honest paths have a handful.
const READINGS_MAX: usize = 512;

/// The most bytes that are worked through, over all readings of a path: it
/// bounds the time that a hostile path can cost to about a millisecond.
const WORK_MAX_BYTES: usize = 512 * 1024;

/// How often an upstream may percent-decode.
pub const DECODES_MAX: u8 = 2;

/// A path, and how often it was percent-decoded as a whole.
pub type Reading = (Vec<u8>, u8);

/// All readings of one target.
pub enum Readings<'a> {
    /// Nothing in the path can be read in two ways.
    Plain(&'a [u8]),
    /// These, the path as received among them.
    Several(HashSet<Reading>),
    /// More than the bounds allow to work out.
    TooMany,
}

/// One step that an upstream may take.
pub type Step = fn(&[u8]) -> Option<Vec<u8>>;

/// The steps besides percent-decoding. Each gives `None` where it changes nothing.
pub const STEPS: [Step; 12] = [
    |path| end_at(path, b'?'),
    |path| end_at(path, b';'),
    |path| end_at(path, b'#'),
    |path| end_at(path, 0),
    |path| end_at(path, b' '),
    back_slashes,
    merge_slashes,
    drop_authority,
    resolve_dots,
    drop_parameters,
    trim_blanks,
    fold_and_strip,
];

impl<'a> Readings<'a> {
    /// Works out the readings of a target as received.
    pub fn of(target: &'a [u8]) -> Self {
        let path = received_path(target);
        if is_plain(path) {
            return Readings::Plain(path);
        }
        let mut seen: HashSet<Reading> = HashSet::new();
        let mut todo = vec![(path.to_vec(), 0_u8)];
        let mut work = 0_usize;
        while let Some((reading, decodes)) = todo.pop() {
            if seen.contains(&(reading.clone(), decodes)) {
                continue;
            }
            work = work.saturating_add(reading.len().saturating_mul(STEPS.len()));
            if seen.len() >= READINGS_MAX || work > WORK_MAX_BYTES {
                return Readings::TooMany;
            }
            if decodes < DECODES_MAX {
                todo.extend(decode(&reading).map(|next| (next, decodes.saturating_add(1))));
            }
            todo.extend(
                STEPS
                    .iter()
                    .filter_map(|step| step(&reading))
                    .map(|next| (next, decodes)),
            );
            seen.insert((reading, decodes));
        }
        Readings::Several(seen)
    }
}

/// The path of a target: an absolute form loses scheme and authority; query
/// and fragment go.
pub fn received_path(target: &[u8]) -> &[u8] {
    let path = if target.starts_with(b"/") {
        target
    } else {
        after_authority(target)
    };
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#'));
    path.get(..end.unwrap_or(path.len())).unwrap_or(path)
}

/// What follows `scheme://authority`, or the target itself.
fn after_authority(target: &[u8]) -> &[u8] {
    let scheme_end = target.windows(3).position(|window| window == b"://");
    let Some(rest) = scheme_end.and_then(|end| target.get(end.saturating_add(3)..)) else {
        return target;
    };
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    end.and_then(|end| rest.get(end..)).unwrap_or_default()
}

/// Whether a path has one reading, case and a trailing slash aside.
pub fn is_plain(path: &[u8]) -> bool {
    // One pass: this is all that an ordinary path costs. A segment that begins
    // with a dot is looked at closely, and so is one that is empty.
    let mut before = b'x';
    for byte in path {
        let unusual = match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => false,
            b'/' | b'.' => before == b'/',
            b'-' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b','
            | b'=' | b':' | b'@' => false,
            _ => true,
        };
        if unusual {
            return false;
        }
        before = *byte;
    }
    true
}

/// `None` for a step that changed nothing.
fn changed(path: &[u8], next: Vec<u8>) -> Option<Vec<u8>> {
    (next != path).then_some(next)
}

/// Percent-decodes once. What is no escape stays as it is.
pub fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let mut next = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        let pair = (*first == b'%').then(|| (digit(tail.first()), digit(tail.get(1))));
        match pair {
            Some((Some(high), Some(low))) => {
                let byte = high.saturating_mul(16).saturating_add(low);
                next.push(u8::try_from(byte).unwrap_or_default());
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                next.push(*first);
                rest = tail;
            }
        }
    }
    changed(path, next)
}

fn end_at(path: &[u8], end: u8) -> Option<Vec<u8>> {
    let end = path.iter().position(|byte| *byte == end)?;
    path.get(..end).map(<[u8]>::to_vec)
}

fn back_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let slash = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    changed(path, path.iter().map(slash).collect())
}

fn merge_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let mut next = path.to_vec();
    next.dedup_by(|a, b| *a == b'/' && *b == b'/');
    changed(path, next)
}

fn drop_authority(path: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(b"//")?;
    let end = rest.iter().position(|byte| *byte == b'/')?;
    rest.get(end..).map(<[u8]>::to_vec)
}

/// RFC 3986, section 5.2.4.
fn resolve_dots(path: &[u8]) -> Option<Vec<u8>> {
    let absolute = path.strip_prefix(b"/");
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_in_dots = false;
    for segment in absolute.unwrap_or(path).split(|byte| *byte == b'/') {
        ends_in_dots = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    if ends_in_dots {
        kept.push(b"");
    }
    let mut next = if absolute.is_some() {
        b"/".to_vec()
    } else {
        Vec::new()
    };
    next.extend(kept.join(&b'/'));
    changed(path, next)
}

/// Applies a change to each segment.
fn by_segment(path: &[u8], change: impl Fn(&[u8]) -> &[u8]) -> Option<Vec<u8>> {
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').map(change).collect();
    changed(path, segments.join(&b'/'))
}

fn drop_parameters(path: &[u8]) -> Option<Vec<u8>> {
    by_segment(path, |segment| {
        segment
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default()
    })
}

fn trim_blanks(path: &[u8]) -> Option<Vec<u8>> {
    let blank = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    by_segment(path, |segment| {
        let start = segment
            .iter()
            .position(|byte| !blank(byte))
            .unwrap_or(segment.len());
        let end = segment.iter().rposition(|byte| !blank(byte));
        let end = end.map_or(start, |end| end.saturating_add(1));
        segment.get(start..end).unwrap_or_default()
    })
}

/// Removes tabs and line ends, and folds the two letters outside ASCII whose
/// case mapping is an ASCII letter: the Kelvin sign and the long s.
fn fold_and_strip(path: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(path);
    let folded: String = text
        .chars()
        .filter(|c| !matches!(c, '\t' | '\r' | '\n'))
        .map(|c| match c {
            '\u{212a}' => 'k',
            '\u{17f}' => 's',
            other => other,
        })
        .collect();
    changed(text.as_bytes(), folded.into_bytes())
}
