//! Helpers for errors.

use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How many bytes of an error with its causes are shown, and how many causes.
const MOST: usize = 2_000;
const CAUSES: usize = 32;

/// Shows an error with its causes, `a: b: c`, in one line.
///
/// Errors are the code of others: one that panics is shown as far as it came, control characters are escaped, and a text or
/// a chain of causes without end is cut.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line(String::new());
        let chain = || {
            write!(line, "{}", self.0)?;
            let mut source = self.0.source();
            for _ in 0..CAUSES {
                let Some(cause) = source else { break };
                let mut shown = Line(String::new());
                let whole = write!(shown, "{cause}");
                // Many errors show their cause themselves.
                if shown.0.is_empty() || !line.0.ends_with(&shown.0) {
                    write!(line, ": {}", shown.0)?;
                }
                whole?;
                source = cause.source();
            }
            fmt::Result::Ok(())
        };
        let shown = catch_unwind(AssertUnwindSafe(chain));
        f.write_str(&line.0)?;
        match shown {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fmt::Error)) => f.write_str(".."),
            Err(_panic) => f.write_str("(the error panicked as it was shown)"),
        }
    }
}

/// A text in one line, which is full when it is too long.
struct Line(String);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() >= MOST {
                return Err(fmt::Error);
            }
            if character.is_control() {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
        Ok(())
    }
}

/// Implements `Debug` as `Display` with all causes, since `fn main() -> Result` prints errors by `Debug`.
macro_rules! debug_as_display {
    ($error:ty) => {
        impl ::std::fmt::Debug for $error {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&$crate::util::error::Chain(self), f)
            }
        }
    };
}
pub(crate) use debug_as_display;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_an_end() {
        let show = |text: String| Chain(&*BoxError::from(text)).to_string();
        assert_eq!(show("a\nb\u{1b}[31m".to_owned()), "a\\nb\\u{1b}[31m");
        assert_eq!(show("x".repeat(5_000)).len(), MOST + 2);
    }

    #[test]
    fn a_cause_that_its_error_shows_is_shown_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read: {0}")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("the disk is gone"));
        assert_eq!(Chain(&error).to_string(), "cannot read: the disk is gone");
    }
}
