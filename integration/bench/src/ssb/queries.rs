//! The 13 queries of the Star Schema Benchmark, over a star and over one wide table.
//!
//! The conditions are those of O'Neil, O'Neil and Chen, "Star Schema Benchmark", revision 3, 2009, section 3.

use self::Dimension::{Customer, Date, Part, Supplier};

/// A query, in its parts.
struct Query {
    columns: &'static str,
    /// The dimensions that it joins.
    dimensions: &'static [Dimension],
    conditions: &'static str,
    /// Groups and order.
    end: &'static str,
}

/// A table of the star but `lineorder`.
#[derive(Clone, Copy)]
enum Dimension {
    Date,
    Customer,
    Supplier,
    Part,
}

impl Dimension {
    /// The table, and the key of `lineorder` that is one of its own.
    fn join(self) -> (&'static str, &'static str) {
        match self {
            Date => ("dates", "lo_orderdate = d_datekey"),
            Customer => ("customer", "lo_custkey = c_custkey"),
            Supplier => ("supplier", "lo_suppkey = s_suppkey"),
            Part => ("part", "lo_partkey = p_partkey"),
        }
    }
}

/// Query `number`, from 1, over the star.
pub(super) fn over_star(number: u8) -> String {
    let query = &QUERIES[usize::from(number) - 1];
    let (mut from, mut conditions) = ("lineorder".to_owned(), query.conditions.to_owned());
    for dimension in query.dimensions {
        let (table, equal) = dimension.join();
        from += &format!(", {table}");
        conditions += &format!(" AND {equal}");
    }
    query.text(&from, &conditions)
}

/// The same over the wide table.
pub(super) fn over_wide_table(number: u8) -> String {
    let query = &QUERIES[usize::from(number) - 1];
    query.text("wide", query.conditions)
}

impl Query {
    fn text(&self, from: &str, conditions: &str) -> String {
        format!("SELECT {} FROM {from} WHERE {conditions} {}", self.columns, self.end)
    }
}

const DISCOUNTED: &str = "sum(lo_extendedprice * lo_discount) AS revenue";
const BY_BRAND: &str = "sum(lo_revenue) AS revenue, d_year, p_brand1";
const BRANDS: &str = "GROUP BY d_year, p_brand1 ORDER BY d_year, p_brand1";
const BY_CITY: &str = "c_city, s_city, d_year, sum(lo_revenue) AS revenue";
const CITIES: &str = "GROUP BY c_city, s_city, d_year ORDER BY d_year, revenue DESC";
const QUERIES: [Query; super::QUERIES as usize] = [
    Query {
        columns: DISCOUNTED,
        dimensions: &[Date],
        conditions: "d_year = 1993 AND lo_discount BETWEEN 1 AND 3 AND lo_quantity < 25",
        end: "",
    },
    Query {
        columns: DISCOUNTED,
        dimensions: &[Date],
        conditions: "d_yearmonthnum = 199401 AND lo_discount BETWEEN 4 AND 6 AND lo_quantity BETWEEN 26 AND 35",
        end: "",
    },
    Query {
        columns: DISCOUNTED,
        dimensions: &[Date],
        conditions: "d_weeknuminyear = 6 AND d_year = 1994 AND lo_discount BETWEEN 5 AND 7 AND lo_quantity BETWEEN 26 AND 35",
        end: "",
    },
    Query {
        columns: BY_BRAND,
        dimensions: &[Date, Part, Supplier],
        conditions: "p_category = 'MFGR#12' AND s_region = 'AMERICA'",
        end: BRANDS,
    },
    Query {
        columns: BY_BRAND,
        dimensions: &[Date, Part, Supplier],
        conditions: "p_brand1 BETWEEN 'MFGR#2221' AND 'MFGR#2228' AND s_region = 'ASIA'",
        end: BRANDS,
    },
    Query {
        columns: BY_BRAND,
        dimensions: &[Date, Part, Supplier],
        conditions: "p_brand1 = 'MFGR#2221' AND s_region = 'EUROPE'",
        end: BRANDS,
    },
    Query {
        columns: "c_nation, s_nation, d_year, sum(lo_revenue) AS revenue",
        dimensions: &[Customer, Supplier, Date],
        conditions: "c_region = 'ASIA' AND s_region = 'ASIA' AND d_year BETWEEN 1992 AND 1997",
        end: "GROUP BY c_nation, s_nation, d_year ORDER BY d_year, revenue DESC",
    },
    Query {
        columns: BY_CITY,
        dimensions: &[Customer, Supplier, Date],
        conditions: "c_nation = 'UNITED STATES' AND s_nation = 'UNITED STATES' AND d_year BETWEEN 1992 AND 1997",
        end: CITIES,
    },
    Query {
        columns: BY_CITY,
        dimensions: &[Customer, Supplier, Date],
        conditions: "c_city IN ('UNITED KI1', 'UNITED KI5') AND s_city IN ('UNITED KI1', 'UNITED KI5') \
                     AND d_year BETWEEN 1992 AND 1997",
        end: CITIES,
    },
    Query {
        columns: BY_CITY,
        dimensions: &[Customer, Supplier, Date],
        conditions: "c_city IN ('UNITED KI1', 'UNITED KI5') AND s_city IN ('UNITED KI1', 'UNITED KI5') \
                     AND d_yearmonth = 'Dec1997'",
        end: CITIES,
    },
    Query {
        columns: "d_year, c_nation, sum(lo_revenue - lo_supplycost) AS profit",
        dimensions: &[Date, Customer, Supplier, Part],
        conditions: "c_region = 'AMERICA' AND s_region = 'AMERICA' AND p_mfgr IN ('MFGR#1', 'MFGR#2')",
        end: "GROUP BY d_year, c_nation ORDER BY d_year, c_nation",
    },
    Query {
        columns: "d_year, s_nation, p_category, sum(lo_revenue - lo_supplycost) AS profit",
        dimensions: &[Date, Customer, Supplier, Part],
        conditions: "c_region = 'AMERICA' AND s_region = 'AMERICA' AND d_year IN (1997, 1998) \
                     AND p_mfgr IN ('MFGR#1', 'MFGR#2')",
        end: "GROUP BY d_year, s_nation, p_category ORDER BY d_year, s_nation, p_category",
    },
    Query {
        columns: "d_year, s_city, p_brand1, sum(lo_revenue - lo_supplycost) AS profit",
        dimensions: &[Date, Customer, Supplier, Part],
        conditions: "c_region = 'AMERICA' AND s_nation = 'UNITED STATES' AND d_year IN (1997, 1998) \
                     AND p_category = 'MFGR#14'",
        end: "GROUP BY d_year, s_city, p_brand1 ORDER BY d_year, s_city, p_brand1",
    },
];
