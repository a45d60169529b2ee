//! Text without what a terminal would obey: a tool may say anything.

/// Leaves escape sequences and control characters out of text that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    at: At,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// In the middle of a sequence that began with `ESC [`, such as a colour.
    Sequence,
    /// In the middle of one that takes text, such as a title. It ends with the line at the latest: a tool that writes
    /// anything but text must not hide everything that follows.
    String,
}

impl Plain {
    /// What is left of the next piece.
    pub(crate) fn next(&mut self, text: &str) -> String {
        text.chars().filter(|char| self.keeps(*char)).collect()
    }

    fn keeps(&mut self, char: char) -> bool {
        let at = std::mem::take(&mut self.at);
        self.at = match (at, char) {
            (_, '\n') => return true,
            (_, '\x1b') => At::Escape,
            // What ESC introduces has short forms too, of one control character.
            (At::Text, _) => return !char.is_control() || matches!(char, '\r' | '\t'),
            (At::Escape, _) => match char {
                '[' => At::Sequence,
                ']' | 'P' | 'X' | '^' | '_' => At::String,
                // Intermediate characters, such as those of the choice of a character set.
                ' '..='/' => At::Escape,
                _ => At::Text,
            },
            (At::Sequence, _) => match char {
                ' '..='?' => At::Sequence,
                _ => At::Text,
            },
            (At::String, _) => match char {
                '\x07' => At::Text,
                _ => At::String,
            },
        };
        false
    }
}

/// What is left of text in one piece.
pub(crate) fn plain(text: &str) -> String {
    Plain::default().next(text)
}

#[cfg(test)]
mod tests {
    use super::{Plain, plain};

    #[test]
    fn what_drives_a_terminal_is_left_out_wherever_it_is_cut() {
        let text = "a\x1b[1;31mb\x1b[0m\x1b]0;title\x07c\x1b]8;;http://x\x1b\\d\x1bPq\x1b\\e\x1b(0f\x1bcg\x07\x08\u{9b}h\ti\r\nä";
        let expected = "abcdefgh\ti\r\nä";
        assert_eq!(plain(text), expected);
        for (at, _) in text.char_indices() {
            let mut pieces = Plain::default();
            assert_eq!(pieces.next(&text[..at]) + &pieces.next(&text[at..]), expected, "cut at {at}");
        }
        assert_eq!(plain("\x1b]0;never ended\nnext"), "\nnext");
    }
}
