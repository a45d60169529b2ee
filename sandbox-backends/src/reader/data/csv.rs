//! CSV: values between delimiters (RFC 4180), of kinds that are found out.

use std::{borrow::Cow, ops::ControlFlow};

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::{
    Ask, Column, Failure, MAX_COLUMNS, Odd, SAMPLE_BYTES, SAMPLE_ROWS, Scan, Source, Table, Visit,
    cell::{Kind, NO_VALUE, typed},
    distinct_names, too_wide,
};

/// What may stand between values; of two that do so as evenly, the later one.
const DELIMITERS: &[u8] = b",|\t;";
/// How much of the file is looked at to find out which does, in bytes.
const SNIFF_BYTES: u64 = 64 << 10;

pub(super) struct Csv {
    source: Source,
    delimiter: u8,
    header: bool,
    columns: Vec<Column>,
    kinds: Vec<Option<Kind>>,
    /// Rows of another length.
    ragged: Odd,
    /// Values in another encoding.
    undecodable: Odd,
}

impl Csv {
    pub(super) fn open(source: Source, scan: &Scan) -> Result<Self, Failure> {
        let head = source.head(SNIFF_BYTES)?;
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err(Failure::Malformed("it is in UTF-16; UTF-8 was expected".to_owned()));
        }
        if head.contains(&0) {
            return Err(Failure::Malformed("it has zero bytes, and is no text".to_owned()));
        }
        let delimiter = scan.delimiter.unwrap_or_else(|| sniff(&head));
        let header = scan.header;
        let mut csv = Self {
            source,
            delimiter,
            header,
            columns: Vec::new(),
            kinds: Vec::new(),
            ragged: Odd::default(),
            undecodable: Odd::default(),
        };
        csv.sample()?;
        if matches!(scan.ask, Ask::Inspect { .. }) {
            // Of what kind they are all of them will tell, not the first ones.
            csv.kinds.fill(Some(Kind::String));
        }
        Ok(csv)
    }

    fn reader(&self, source: Source, header: bool) -> Reader<Source> {
        ReaderBuilder::new()
            .delimiter(self.delimiter)
            .has_headers(header)
            .flexible(true)
            .buffer_capacity(256 << 10)
            .from_reader(source)
    }

    /// Finds out what the columns are.
    fn sample(&mut self) -> Result<(), Failure> {
        let mut source = self.source.from(0);
        source.bytes = source.bytes.min(SAMPLE_BYTES);
        let whole = source.bytes == self.source.bytes;
        let mut reader = self.reader(source, self.header);
        let header = if self.header {
            reader.byte_headers().map_err(|error| damaged(&error))?.clone()
        } else {
            ByteRecord::new()
        };
        if !whole && reader.position().byte() >= SAMPLE_BYTES {
            return Err(Failure::Malformed(format!("its first row has more than {} MiB", SAMPLE_BYTES >> 20)));
        }
        let (mut kinds, mut record, mut rows) = (Vec::<Option<Kind>>::new(), ByteRecord::new(), 0);
        kinds.resize(header.len(), None);
        if kinds.len() > MAX_COLUMNS {
            return Err(too_wide());
        }
        while rows < SAMPLE_ROWS && reader.read_byte_record(&mut record).map_err(|error| damaged(&error))? {
            // The last one may be cut in two.
            if !whole && rows > 0 && reader.position().byte() >= SAMPLE_BYTES {
                break;
            }
            rows += 1;
            if !self.header && record.len() > kinds.len() {
                kinds.resize(record.len(), None);
            }
            if kinds.len() > MAX_COLUMNS {
                return Err(too_wide());
            }
            for (kind, value) in kinds.iter_mut().zip(&record) {
                let text = decode(value);
                // A column whose first value is missing is whatever the others are.
                if !text.is_empty() && !NO_VALUE.contains(&text.as_ref()) {
                    let this = Kind::of_text(&text);
                    *kind = Some(kind.map_or(this, |known| known.with(this)));
                }
            }
        }
        let names =
            (0..kinds.len()).map(|index| header.get(index).map(|name| decode(name).into_owned()).unwrap_or_default());
        let describe = |(name, kind): (String, &Option<Kind>)| Column {
            name,
            kind: kind.unwrap_or(Kind::String).name().to_owned(),
        };
        self.columns = distinct_names(names).into_iter().zip(&kinds).map(describe).collect();
        self.kinds = kinds;
        Ok(())
    }
}

impl Table for Csv {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn is_text(&self) -> bool {
        true
    }

    fn delimiter(&self) -> Option<char> {
        Some(self.delimiter.into())
    }

    fn scan(&mut self, wanted: &[usize], from: u64, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let mut reader = self.reader(self.source.from(from), self.header && from == 0);
        let mut record = ByteRecord::new();
        while reader.read_byte_record(&mut record).map_err(|error| damaged(&error))? {
            let (place, line) = record.position().map_or((0, 0), |position| (position.byte(), position.line()));
            // Lines are counted from where reading began.
            let line = if from == 0 { line } else { 0 };
            if record.len() != self.columns.len() {
                self.ragged.note(line);
            }
            let mut row = Vec::with_capacity(wanted.len());
            for index in wanted {
                let text = decode(record.get(*index).unwrap_or_default());
                if matches!(text, Cow::Owned(_)) {
                    self.undecodable.note(line);
                }
                row.push(typed(text, self.kinds[*index]));
            }
            if visit(from + place, &row) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(ragged) = self.ragged.words("rows") {
            let width = self.columns.len();
            warnings.push(format!(
                "{ragged} have not {width} values: what is missing is null, what is too much is left out"
            ));
        }
        if let Some(undecodable) = self.undecodable.words("values") {
            warnings.push(format!("{undecodable} are not in UTF-8: they were read as Windows-1252"));
        }
        warnings
    }
}

/// A text in UTF-8, or else in Windows-1252.
fn decode(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned().into(),
    }
}

/// The delimiter that the first lines have most evenly.
fn sniff(head: &[u8]) -> u8 {
    let score = |delimiter: &u8| {
        let mut reader = ReaderBuilder::new().delimiter(*delimiter).has_headers(false).flexible(true).from_reader(head);
        let widths: Vec<usize> =
            reader.byte_records().take(20).filter_map(Result::ok).map(|record| record.len()).collect();
        let first = widths.first().copied().unwrap_or(1);
        let same = widths.iter().filter(|width| **width == first).count();
        if first < 2 { 0 } else { same * 1000 + first.min(999) }
    };
    DELIMITERS.iter().copied().max_by_key(score).filter(|best| score(best) > 0).unwrap_or(b',')
}

fn damaged(error: &csv::Error) -> Failure {
    Failure::Malformed(format!("it is no CSV: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_are_found_out() {
        for (head, delimiter) in [
            ("a,b\n1,2\n", b','),
            ("a;b\n1,5;2,5\n", b';'),
            ("a\tb c, d\n1\t2\n", b'\t'),
            ("a|b|c\n1|2|3\n", b'|'),
            ("a\n1\n", b','),
            ("", b','),
            ("Name;Amount, EUR\nx;1,50\n", b';'),
            ("name,note\nx,\"one; two; three\"\n", b','),
        ] {
            assert_eq!(char::from(sniff(head.as_bytes())), char::from(delimiter), "{head}");
        }
    }
}
