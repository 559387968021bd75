//! The 22 TPC-H queries with the validation parameters of the specification (TPC-H 3.0.1, section 2.4).

/// How many queries there are.
pub const QUERIES: u8 = 22;

/// The tables, in the order of the specification.
pub const TABLES: [&str; 8] = [
    "part", "supplier", "partsupp", "customer", "nation", "lineitem", "region", "orders",
];

const TEXTS: [&str; QUERIES as usize] = [
    include_str!("../queries/q01.sql"),
    include_str!("../queries/q02.sql"),
    include_str!("../queries/q03.sql"),
    include_str!("../queries/q04.sql"),
    include_str!("../queries/q05.sql"),
    include_str!("../queries/q06.sql"),
    include_str!("../queries/q07.sql"),
    include_str!("../queries/q08.sql"),
    include_str!("../queries/q09.sql"),
    include_str!("../queries/q10.sql"),
    include_str!("../queries/q11.sql"),
    include_str!("../queries/q12.sql"),
    include_str!("../queries/q13.sql"),
    include_str!("../queries/q14.sql"),
    include_str!("../queries/q15.sql"),
    include_str!("../queries/q16.sql"),
    include_str!("../queries/q17.sql"),
    include_str!("../queries/q18.sql"),
    include_str!("../queries/q19.sql"),
    include_str!("../queries/q20.sql"),
    include_str!("../queries/q21.sql"),
    include_str!("../queries/q22.sql"),
];

/// Query `n`, from 1 to 22, for tables of scale `scale_factor`, on which the threshold of query 11 depends.
///
/// # Panics
/// When there is no such query.
pub fn query(n: u8, scale_factor: f64) -> String {
    assert!((1..=QUERIES).contains(&n), "TPC-H has queries 1 to {QUERIES}, not {n}");
    TEXTS[usize::from(n) - 1].replace(":fraction", &fraction(scale_factor))
}

/// 0.0001 divided by the scale, as a literal without an exponent.
fn fraction(scale_factor: f64) -> String {
    let digits = format!("{:.15}", 0.0001 / scale_factor);
    digits.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_query() {
        for n in 1..=QUERIES {
            assert!(query(n, 1.0).starts_with(&format!("-- TPC-H Q{n}: ")), "{n}");
            assert!(!query(n, 1.0).contains(":fraction"), "{n}");
        }
    }

    #[test]
    fn threshold_follows_the_scale_factor() {
        for (scale, expected) in [
            (1.0, "0.0001"),
            (0.01, "0.01"),
            (0.1, "0.001"),
            (10.0, "0.00001"),
            (100.0, "0.000001"),
        ] {
            assert!(query(11, scale).contains(&format!("* {expected}\n")), "{scale}");
        }
    }
}
