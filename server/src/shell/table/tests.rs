//! Tables as they are drawn in scripts, and at terminals of a given width.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;

fn batch(names: &[Option<&str>], counts: &[i64]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("n", DataType::Int64, false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(names.to_vec())),
        Arc::new(Int64Array::from(counts.to_vec())),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn draw(batches: &[RecordBatch], style: Style) -> (String, Option<&'static str>) {
    let mut out = String::new();
    let mut table = Table::new(batches[0].schema(), style);
    for batch in batches {
        table.push(batch, &mut out).unwrap();
    }
    table.finish(&mut out).unwrap();
    (out, table.note())
}

/// The table of a script.
fn table(batches: &[RecordBatch]) -> String {
    let (drawn, note) = draw(batches, Style::WHOLE);
    assert_eq!(note, None);
    drawn
}

fn at_terminal(screen: usize) -> Style {
    Style {
        expanded: Expanded::Off,
        screen: Some(screen),
        cut: true,
    }
}

fn widest(drawn: &str) -> usize {
    drawn.lines().map(cells::width).max().unwrap_or(0)
}

#[test]
fn table_aligns_numbers_right() {
    let drawn = table(&[batch(&[Some("chair"), None], &[7, 1234])]);
    let expected = "\
+-------+------+
| name  | n    |
+-------+------+
| chair |    7 |
| NULL  | 1234 |
+-------+------+
";
    assert_eq!(drawn, expected);
}

#[test]
fn empty_result_keeps_its_header() {
    assert_eq!(
        table(&[batch(&[], &[])]),
        "+------+---+\n| name | n |\n+------+---+\n+------+---+\n"
    );
}

#[test]
fn cell_may_have_several_lines() {
    let drawn = table(&[batch(&[Some("a\nbcdef")], &[1])]);
    assert!(drawn.contains("| a     | 1 |\n| bcdef |   |\n"), "{drawn}");
}

#[test]
fn control_characters_are_always_escaped() {
    let drawn = table(&[batch(&[Some("a\u{1b}[2Jb\tc")], &[1])]);
    assert!(drawn.contains("a\\u{1b}[2Jb    c"), "{drawn}");
}

#[test]
fn wide_characters_take_two_columns() {
    let drawn = table(&[batch(&[Some("日本"), Some("abcd")], &[1, 2])]);
    assert!(drawn.contains("| 日本 | 1 |\n| abcd | 2 |"), "{drawn}");
}

fn repeat(text: &str, count: usize) -> RecordBatch {
    batch(&vec![Some(text); count], &vec![1; count])
}

#[test]
fn rows_flow_after_full_preview() {
    let mut out = String::new();
    let mut table = Table::new(repeat("a", 0).schema(), Style::WHOLE);
    table.push(&repeat("a", PREVIEW_ROWS - 1), &mut out).unwrap();
    assert!(out.is_empty(), "held for the widths");
    table.push(&repeat("a", 1), &mut out).unwrap();
    assert_eq!(out.lines().count(), 3 + PREVIEW_ROWS);
    table.push(&repeat("wider than the preview", 1), &mut out).unwrap();
    assert!(
        out.ends_with("| wider than the preview | 1 |\n"),
        "a later value is whole"
    );
    assert!(table.preview.is_empty());
}

#[test]
fn huge_value_does_not_pad_others() {
    let huge = "x".repeat(10_000);
    let drawn = table(&[batch(&[Some(&huge), Some("y")], &[1, 2])]);
    assert!(drawn.contains(&huge));
    assert!(drawn.lines().last().unwrap().len() < 200);
}

#[test]
fn terminal_cuts_what_would_wrap() {
    let (drawn, note) = draw(
        &[batch(&[Some("a long description"), Some("short")], &[7, 8])],
        at_terminal(20),
    );
    let expected = "\
+--------------+---+
| name         | n |
+--------------+---+
| a long desc… | 7 |
| short        | 8 |
+--------------+---+
";
    assert_eq!(drawn, expected);
    assert_eq!(note, Some(CUT));
}

#[test]
fn table_that_fits_its_terminal_is_whole() {
    let rows = [batch(&[Some("a long description")], &[7])];
    assert_eq!(draw(&rows, at_terminal(26)), (table(&rows), None));
}

#[test]
fn later_values_do_not_wrap_either() {
    let mut out = String::new();
    let mut table = Table::new(repeat("a", 0).schema(), at_terminal(30));
    table.push(&repeat("a", PREVIEW_ROWS), &mut out).unwrap();
    assert_eq!(table.note(), None);
    table.push(&batch(&[Some("b")], &[1234]), &mut out).unwrap();
    assert!(out.ends_with("| b    | 1234 |\n"), "whole, since there is room");
    assert_eq!(table.note(), None);
    table.push(&repeat(&"c".repeat(100), 1), &mut out).unwrap();
    assert!(out.ends_with("ccc… | 1 |\n"), "{out}");
    assert_eq!((widest(&out), table.note()), (30, Some(CUT)));
}

#[test]
fn uncut_terminal_table_may_be_wider() {
    let style = Style {
        cut: false,
        ..at_terminal(20)
    };
    let rows = [batch(&[Some("a long description")], &[7])];
    assert_eq!(draw(&rows, style), (table(&rows), None));
}

#[test]
fn too_many_columns_become_records() {
    let column: ArrayRef = Arc::new(StringArray::from(vec!["0123456789"]));
    let names: Vec<_> = (0..20).map(|number| format!("c{number}")).collect();
    let rows = RecordBatch::try_from_iter(names.iter().map(|name| (name, Arc::clone(&column)))).unwrap();
    let (drawn, note) = draw(&[rows], at_terminal(80));
    assert!(
        drawn.starts_with("-[ RECORD 1 ]---\nc0  | 0123456789\nc1  | "),
        "{drawn}"
    );
    assert_eq!(note, Some(TOO_MANY_COLUMNS));
}

#[test]
fn expanded_display_is_on_or_automatic() {
    let rows = [batch(&[Some("a long description")], &[7])];
    let records = "-[ RECORD 1 ]---\nname | a long description\nn    | 7\n";
    for (expanded, screen, expected) in [
        (Expanded::On, None, (records.to_owned(), None)),
        (Expanded::On, Some(80), (records.to_owned(), None)),
        (Expanded::Auto, None, (table(&rows), None)),
        (Expanded::Auto, Some(80), (table(&rows), None)),
        (Expanded::Auto, Some(20), (records.to_owned(), Some(TOO_WIDE))),
    ] {
        let style = Style {
            expanded,
            screen,
            cut: screen.is_some(),
        };
        assert_eq!(draw(&rows, style), expected, "{style:?}");
    }
}
