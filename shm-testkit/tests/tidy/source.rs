//! A Rust source text, each line split into code and comment; strings are blanked.
use std::fmt;
use std::mem::take;

/// A broken rule. Ordered by file and line.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// One line.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) raw: String,
    /// The line without comments and without what stands in string literals.
    pub(crate) code: String,
    /// The text of its comments.
    pub(crate) comment: String,
}

/// A file, or a planted text.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the workspace's root, with `/`.
    pub(crate) path: String,
    pub(crate) lines: Vec<Line>,
}

/// What the next character belongs to.
enum State {
    Code,
    LineComment,
    /// Block comments nest.
    BlockComment(usize),
    Text,
    /// Ends with a quote and this many `#`.
    RawText(usize),
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let parts = split(&text.chars().collect::<Vec<_>>());
        let lines = text.lines().zip(parts);
        let lines = lines.map(|(raw, (code, comment))| Line { raw: raw.to_owned(), code, comment });
        Source { path: path.to_owned(), lines: lines.collect() }
    }

    pub(crate) fn finding(&self, index: usize, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line: index + 1, what: what.into() }
    }

    /// A finding for each line that `broken` has something to say about.
    pub(crate) fn find_lines(
        &self,
        broken: impl Fn(usize, &Line) -> Option<String>,
    ) -> Vec<Finding> {
        let lines = self.lines.iter().enumerate();
        lines.filter_map(|(i, line)| Some(self.finding(i, broken(i, line)?))).collect()
    }

    /// Whether line `index` is in a test, an example, a benchmark or a model's stand-in for the
    /// kernel. Unit tests stand at the foot.
    pub(crate) fn is_test(&self, index: usize) -> bool {
        let of_tests = |part: &str| matches!(part, "tests" | "examples" | "benches" | "tests.rs");
        let is_foot = |line: &Line| {
            let code = line.code.trim();
            code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test")
        };
        self.path.ends_with("modelled.rs")
            || self.path.split('/').any(of_tests)
            || self.lines[..=index].iter().any(is_foot)
    }

    /// Whether a comment on line `index` or one of the `above` before it contains `words`.
    pub(crate) fn comment_near(&self, index: usize, above: usize, words: &str) -> bool {
        let near = &self.lines[index.saturating_sub(above)..=index];
        near.iter().any(|line| line.comment.contains(words))
    }
}

pub(crate) fn part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` stands in `text` with nothing of an identifier on either side.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(part_of_word) && !text[at + word.len()..].starts_with(part_of_word)
    })
}

/// Code and comment of each line.
fn split(text: &[char]) -> Vec<(String, String)> {
    let (mut lines, mut code, mut comment) = (Vec::new(), String::new(), String::new());
    let (mut state, mut i) = (State::Code, 0);
    while i < text.len() {
        let (c, rest) = (text[i], &text[i..]);
        if c == '\n' {
            lines.push((take(&mut code), take(&mut comment)));
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            i += 1;
            continue;
        }
        let step = match state {
            State::Code => in_code(rest, &mut code, &mut state),
            State::LineComment | State::BlockComment(_) => {
                comment.push(c);
                in_comment(rest, &mut state)
            }
            State::Text | State::RawText(_) => in_text(rest, &mut code, &mut state),
        };
        i += step;
    }
    lines.push((code, comment));
    lines
}

/// Takes one token's start in code; returns the characters taken.
fn in_code(rest: &[char], code: &mut String, state: &mut State) -> usize {
    if rest.starts_with(&['/', '/']) {
        *state = State::LineComment;
        return 2;
    }
    if rest.starts_with(&['/', '*']) {
        *state = State::BlockComment(1);
        return 2;
    }
    let word_before = code.rsplit(|c| !part_of_word(c)).next().unwrap_or_default();
    let hashes = rest.iter().skip(1).take_while(|c| **c == '#').count();
    let taken = match rest[0] {
        '"' => {
            *state = State::Text;
            1
        }
        'r' if matches!(word_before, "" | "b" | "c") && rest.get(1 + hashes) == Some(&'"') => {
            *state = State::RawText(hashes);
            2 + hashes
        }
        // A character literal; a lone quote is a lifetime.
        '\'' if rest.get(1) == Some(&'\\') => {
            2 + rest.iter().skip(3).position(|c| *c == '\'').map_or(0, |end| end + 2)
        }
        '\'' if rest.get(2) == Some(&'\'') => 3,
        other => {
            code.push(other);
            return 1;
        }
    };
    code.push('"');
    taken
}

fn in_comment(rest: &[char], state: &mut State) -> usize {
    let State::BlockComment(depth) = state else { return 1 };
    if rest.starts_with(&['/', '*']) {
        *depth += 1;
        return 2;
    }
    if !rest.starts_with(&['*', '/']) {
        return 1;
    }
    *depth -= 1;
    if *depth == 0 {
        *state = State::Code;
    }
    2
}

fn in_text(rest: &[char], code: &mut String, state: &mut State) -> usize {
    let hashes = match state {
        State::RawText(hashes) => *hashes,
        // An escaped line end still ends the line.
        _ if rest[0] == '\\' => return if rest.get(1) == Some(&'\n') { 1 } else { 2 },
        _ => 0,
    };
    let closing = rest.iter().skip(1).take_while(|c| **c == '#').take(hashes).count();
    if rest[0] != '"' || closing < hashes {
        return 1;
    }
    code.push('"');
    *state = State::Code;
    1 + hashes
}
