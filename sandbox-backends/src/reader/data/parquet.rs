//! Parquet, row group by row group.

use std::{fmt::Write as _, ops::ControlFlow};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::{DateTime, NaiveTime, SecondsFormat, TimeDelta};
use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit, Type as PhysicalType},
    errors::{ParquetError, Result as ParquetResult},
    file::{
        reader::{ChunkReader, FileReader as _, Length},
        serialized_reader::SerializedFileReader,
    },
    record::{Field, reader::RowIter},
    schema::types::{Type, TypePtr},
};
use serde_json::{Map, Value};

use super::{Column, Failure, MAX_COLUMNS, Source, Table, Visit, cell::Cell, distinct_names, too_wide};

pub(super) struct ParquetFile {
    reader: SerializedFileReader<Source>,
    fields: Vec<TypePtr>,
    columns: Vec<Column>,
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Source {
    type T = std::io::BufReader<Self>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(std::io::BufReader::new(self.from(start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        use std::os::unix::fs::FileExt as _;
        // What the file claims may be more than it has.
        if start.checked_add(length as u64).is_none_or(|end| end > self.bytes) {
            return Err(ParquetError::EOF("a part of the file is missing".to_owned()));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

impl ParquetFile {
    pub(super) fn open(source: Source) -> Result<Self, Failure> {
        let reader = SerializedFileReader::new(source).map_err(|error| damaged(&error))?;
        let fields = reader.metadata().file_metadata().schema().get_fields().to_vec();
        if fields.len() > MAX_COLUMNS {
            return Err(too_wide());
        }
        let names = distinct_names(fields.iter().map(|field| field.name().to_owned()));
        let describe = |(name, field): (String, &TypePtr)| Column { name, kind: kind(field).to_owned() };
        let columns = names.into_iter().zip(&fields).map(describe).collect();
        Ok(Self { reader, fields, columns })
    }
}

impl Table for ParquetFile {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn declares_types(&self) -> bool {
        true
    }

    fn rows(&self) -> Option<u64> {
        u64::try_from(self.reader.metadata().file_metadata().num_rows()).ok()
    }

    fn scan(&mut self, wanted: &[usize], from: u64, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let schema = self.reader.metadata().file_metadata().schema();
        // Each column once, in the order of the file.
        let mut read: Vec<usize> = wanted.to_vec();
        read.sort_unstable();
        read.dedup();
        let places: Vec<usize> = wanted.iter().map(|index| read.partition_point(|known| known < index)).collect();
        let types: Vec<&TypePtr> = read.iter().map(|index| &self.fields[*index]).collect();
        // Of two columns with one name only both together can be had.
        let projection = if read.len() == self.fields.len() {
            None
        } else {
            let fields = types.iter().map(|field| (*field).clone()).collect();
            let projection = Type::group_type_builder(schema.name()).with_fields(fields).build();
            Some(projection.map_err(|error| damaged(&error))?)
        };
        let mut number = 0;
        for index in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(index).map_err(|error| damaged(&error))?;
            let rows = u64::try_from(group.metadata().num_rows()).unwrap_or(0);
            // Rows without a column are only counted.
            if number + rows <= from || read.is_empty() {
                number += rows;
                continue;
            }
            let rows = RowIter::from_row_group(projection.clone(), group.as_ref()).map_err(|error| damaged(&error))?;
            for row in rows {
                let row = row.map_err(|error| damaged(&error))?;
                number += 1;
                if number <= from {
                    continue;
                }
                let cells: Vec<Cell<'_>> =
                    row.get_column_iter().zip(&types).map(|((_, field), of)| cell(field, Some(of))).collect();
                let row: Vec<Cell<'_>> = places.iter().map(|place| cells[*place].clone()).collect();
                if visit(number - 1, &row) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The unit of numbers that are times, where rows have them as numbers.
#[derive(Clone, Copy)]
enum Unit {
    Nanos { utc: bool },
    Micros { utc: bool },
    Millis { utc: bool },
    NanosOfDay,
    Uuid,
}

impl Unit {
    fn of(field: &TypePtr) -> Option<Self> {
        if !field.is_primitive() {
            return None;
        }
        match field.get_basic_info().logical_type_ref()? {
            LogicalType::Timestamp(time) => {
                let utc = time.is_adjusted_to_u_t_c;
                Some(match time.unit {
                    TimeUnit::NANOS => Self::Nanos { utc },
                    TimeUnit::MICROS => Self::Micros { utc },
                    TimeUnit::MILLIS => Self::Millis { utc },
                })
            }
            LogicalType::Uuid => Some(Self::Uuid),
            LogicalType::Time(time) => matches!(time.unit, TimeUnit::NANOS).then_some(Self::NanosOfDay),
            _ => None,
        }
    }
}

/// A value of a type.
fn cell<'f>(field: &'f Field, of: Option<&TypePtr>) -> Cell<'f> {
    let unit = of.and_then(Unit::of);
    match (field, unit) {
        (Field::Null, _) => Cell::Null,
        (Field::Bool(value), _) => Cell::Bool(*value),
        (Field::Byte(value), _) => Cell::Int((*value).into()),
        (Field::Short(value), _) => Cell::Int((*value).into()),
        (Field::Int(value), _) => Cell::Int((*value).into()),
        (Field::Long(value), Some(Unit::NanosOfDay)) => Cell::Text(time_of_day(TimeDelta::nanoseconds(*value)).into()),
        (Field::Long(value), Some(Unit::Nanos { utc })) => {
            Cell::Text(timestamp(value.div_euclid(1_000_000_000), value.rem_euclid(1_000_000_000), utc).into())
        }
        (Field::Long(value), _) => Cell::Int((*value).into()),
        (Field::UByte(value), _) => Cell::Int((*value).into()),
        (Field::UShort(value), _) => Cell::Int((*value).into()),
        (Field::UInt(value), _) => Cell::Int((*value).into()),
        (Field::ULong(value), _) => Cell::Int((*value).into()),
        (Field::Float16(value), _) => Cell::Float((*value).into()),
        // As it is written, not as the next double is.
        (Field::Float(value), _) => Cell::Float(value.to_string().parse().unwrap_or(f64::NAN)),
        (Field::Double(value), _) => Cell::Float(*value),
        (Field::Str(text), _) => Cell::Text(text.into()),
        (Field::Bytes(bytes), Some(Unit::Uuid)) => Cell::Text(uuid(bytes.data()).into()),
        (Field::Bytes(bytes), _) => Cell::Text(BASE64_STANDARD.encode(bytes.data()).into()),
        (Field::Decimal(_), _) => Cell::Decimal(field.to_string()),
        (Field::Date(days), _) => {
            let date = DateTime::from_timestamp(i64::from(*days) * 86_400, 0);
            Cell::Text(date.map_or_else(|| days.to_string(), |date| date.date_naive().to_string()).into())
        }
        (Field::TimeMillis(value), _) => Cell::Text(time_of_day(TimeDelta::milliseconds((*value).into())).into()),
        (Field::TimeMicros(value), _) => Cell::Text(time_of_day(TimeDelta::microseconds(*value)).into()),
        (Field::TimestampMillis(value), unit) => {
            let utc = matches!(unit, Some(Unit::Millis { utc: true }));
            Cell::Text(timestamp(value.div_euclid(1000), value.rem_euclid(1000) * 1_000_000, utc).into())
        }
        (Field::TimestampMicros(value), unit) => {
            let utc = matches!(unit, Some(Unit::Micros { utc: true }));
            Cell::Text(timestamp(value.div_euclid(1_000_000), value.rem_euclid(1_000_000) * 1000, utc).into())
        }
        (Field::Group(row), _) => {
            let types = of.filter(|of| of.is_group()).map_or(&[][..], |of| of.get_fields());
            let value =
                |(index, (name, field)): (usize, (&String, &Field))| (name.clone(), json(field, types.get(index)));
            Cell::Json(Value::Object(row.get_column_iter().enumerate().map(value).collect::<Map<_, _>>()))
        }
        (Field::ListInternal(list), _) => {
            // A list is a group that repeats a group of one; of old also what repeats itself.
            let repeated = of.filter(|of| of.is_group()).and_then(|of| of.get_fields().first());
            let element =
                repeated.filter(|of| of.is_group()).and_then(|of| of.get_fields().first()).or(repeated).or(of);
            Cell::Json(list.elements().iter().map(|field| json(field, element)).collect())
        }
        (Field::MapInternal(map), _) => {
            let pair = of.filter(|of| of.is_group()).and_then(|of| of.get_fields().first()).filter(|of| of.is_group());
            let types = pair.map_or(&[][..], |of| of.get_fields());
            let entry = |(key, value): &(Field, Field)| {
                let key = json(key, types.first());
                (key.as_str().map_or_else(|| key.to_string(), str::to_owned), json(value, types.get(1)))
            };
            Cell::Json(Value::Object(map.entries().iter().map(entry).collect()))
        }
    }
}

fn json(field: &Field, of: Option<&TypePtr>) -> Value {
    cell(field, of).to_value(usize::MAX, &mut false)
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// As ISO 8601 has it: with `Z` if it is meant so, without a zone if it is local.
fn timestamp(seconds: i64, nanos: i64, utc: bool) -> String {
    let nanos = u32::try_from(nanos).unwrap_or(0);
    match DateTime::from_timestamp(seconds, nanos) {
        Some(time) => {
            let text = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            if utc { text } else { text.trim_end_matches('Z').to_owned() }
        }
        None => format!("{seconds}.{nanos:09} s after 1970"),
    }
}

fn time_of_day(after_midnight: TimeDelta) -> String {
    (NaiveTime::MIN + after_midnight).to_string()
}

/// What a column holds, in a word.
fn kind(field: &TypePtr) -> &'static str {
    let Type::PrimitiveType { physical_type, .. } = field.as_ref() else {
        return match (field.get_basic_info().logical_type_ref(), field.get_basic_info().converted_type()) {
            (Some(LogicalType::List), _) | (_, ConvertedType::LIST) => "list",
            _ => "object",
        };
    };
    match field.get_basic_info().logical_type_ref() {
        _ if field.get_basic_info().has_repetition()
            && field.get_basic_info().repetition() == parquet::basic::Repetition::REPEATED =>
        {
            "list"
        }
        Some(LogicalType::Timestamp(_)) => "datetime",
        Some(LogicalType::Date) => "date",
        Some(LogicalType::Time(_)) => "time",
        Some(LogicalType::Decimal(_)) => "decimal",
        Some(LogicalType::Float16) => "number",
        Some(LogicalType::String | LogicalType::Enum | LogicalType::Json | LogicalType::Uuid) => "string",
        _ => match (physical_type, field.get_basic_info().converted_type()) {
            (_, ConvertedType::TIMESTAMP_MICROS | ConvertedType::TIMESTAMP_MILLIS) | (PhysicalType::INT96, _) => {
                "datetime"
            }
            (_, ConvertedType::DATE) => "date",
            (_, ConvertedType::DECIMAL) => "decimal",
            (_, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => "string",
            (PhysicalType::BOOLEAN, _) => "boolean",
            (PhysicalType::INT32 | PhysicalType::INT64, _) => "integer",
            (PhysicalType::FLOAT | PhysicalType::DOUBLE, _) => "number",
            _ => "binary",
        },
    }
}

fn damaged(error: &ParquetError) -> Failure {
    Failure::Malformed(format!("it is no Parquet that can be read: {error}"))
}
