//! Parquet, row group by row group.

use std::ops::ControlFlow;

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
    record::{Field, Row, reader::RowIter},
    schema::types::{Type, TypePtr},
};
use serde_json::{Map, Number, Value};

use super::{Column, Failure, Source, Table, Visit, cell::Cell};

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
        let describe = |field: &TypePtr| Column { name: field.name().to_owned(), kind: kind(field).to_owned() };
        let columns = fields.iter().map(describe).collect();
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

    fn scan(&mut self, wanted: &[usize], skip: u64, visit: &mut Visit<'_>) -> Result<(), Failure> {
        let schema = self.reader.metadata().file_metadata().schema();
        // Each column once, in the order of the file.
        let mut read: Vec<usize> = wanted.to_vec();
        read.sort_unstable();
        read.dedup();
        let places: Vec<usize> = wanted.iter().map(|index| read.partition_point(|known| known < index)).collect();
        let units: Vec<Option<Unit>> = read.iter().map(|index| Unit::of(&self.fields[*index])).collect();
        let projection = Type::group_type_builder(schema.name())
            .with_fields(read.iter().map(|index| self.fields[*index].clone()).collect())
            .build()
            .map_err(|error| damaged(&error))?;
        let mut number = 0;
        for index in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(index).map_err(|error| damaged(&error))?;
            let rows = u64::try_from(group.metadata().num_rows()).unwrap_or(0);
            if number + rows <= skip {
                number += rows;
                continue;
            }
            if read.is_empty() {
                // Rows without a column are only counted.
                number += rows;
                continue;
            }
            for row in
                RowIter::from_row_group(Some(projection.clone()), group.as_ref()).map_err(|error| damaged(&error))?
            {
                let row = row.map_err(|error| damaged(&error))?;
                number += 1;
                if number <= skip {
                    continue;
                }
                let cells: Vec<Cell<'_>> =
                    row.get_column_iter().zip(&units).map(|((_, field), unit)| cell(field, *unit)).collect();
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
            LogicalType::Time(time) => matches!(time.unit, TimeUnit::NANOS).then_some(Self::NanosOfDay),
            _ => None,
        }
    }
}

/// A value of a column.
fn cell(field: &Field, unit: Option<Unit>) -> Cell<'_> {
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
        (Field::Long(value), _) => Cell::Int(*value),
        (Field::UByte(value), _) => Cell::Int((*value).into()),
        (Field::UShort(value), _) => Cell::Int((*value).into()),
        (Field::UInt(value), _) => Cell::Int((*value).into()),
        (Field::ULong(value), _) => match i64::try_from(*value) {
            Ok(value) => Cell::Int(value),
            Err(_) => Cell::Json((*value).into()),
        },
        (Field::Float16(value), _) => Cell::Float((*value).into()),
        // As it is written, not as the next double is.
        (Field::Float(value), _) => Cell::Float(value.to_string().parse().unwrap_or(f64::NAN)),
        (Field::Double(value), _) => Cell::Float(*value),
        (Field::Str(text), _) => Cell::Text(text.into()),
        (Field::Bytes(bytes), _) => Cell::Text(BASE64_STANDARD.encode(bytes.data()).into()),
        (Field::Decimal(_), _) => Cell::Text(field.to_string().into()),
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
        (Field::Group(row), _) => Cell::Json(object(row)),
        (Field::ListInternal(list), _) => Cell::Json(list.elements().iter().map(json).collect()),
        (Field::MapInternal(map), _) => {
            let entry = |(key, value): &(Field, Field)| {
                let key = json(key);
                (key.as_str().map_or_else(|| key.to_string(), str::to_owned), json(value))
            };
            Cell::Json(Value::Object(map.entries().iter().map(entry).collect()))
        }
    }
}

fn object(row: &Row) -> Value {
    Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), json(field))).collect::<Map<_, _>>())
}

fn json(field: &Field) -> Value {
    match cell(field, None) {
        Cell::Null => Value::Null,
        Cell::Bool(value) => value.into(),
        Cell::Int(value) => value.into(),
        Cell::Float(value) => Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number),
        Cell::Text(text) => text.into(),
        Cell::Json(value) => value,
    }
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
