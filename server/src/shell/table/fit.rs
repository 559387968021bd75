//! The widths of a table's columns that fit a terminal.

/// A narrower column would show little more than ellipses.
const NARROWEST: usize = 6;

/// The width of a table, with its frame.
pub(super) fn framed(widths: &[usize]) -> usize {
    widths.iter().map(|width| width + 3).sum::<usize>() + 1
}

/// Narrows the widest columns, and only those, until the table is as wide as `screen`. `None` if a column would be
/// narrower than [`NARROWEST`].
///
/// Shrinking again after a shrunk column was widened gives the same widths, so that rows with long values align.
pub(super) fn shrink(widths: &[usize], screen: usize) -> Option<Vec<usize>> {
    let mut left = screen.checked_sub(widths.len() * 3 + 1)?;
    let mut ascending = widths.to_vec();
    ascending.sort_unstable();
    for (index, width) in ascending.iter().enumerate() {
        // The columns from here on are not narrower than this one, and share what is left.
        let sharers = ascending.len() - index;
        let most = left / sharers;
        if *width > most {
            return (most >= NARROWEST).then(|| cap(widths, most, left % sharers));
        }
        left -= width;
    }
    Some(widths.to_vec())
}

/// Narrows each column to `most`; the first that are wider get one of the `spare` columns of the terminal each.
fn cap(widths: &[usize], most: usize, mut spare: usize) -> Vec<usize> {
    let narrow = |width: &usize| {
        if *width > most && spare > 0 {
            spare -= 1;
            most + 1
        } else {
            (*width).min(most)
        }
    };
    widths.iter().map(narrow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_widest_columns_shrink() {
        assert_eq!(shrink(&[3, 100, 5, 70], 80), Some(vec![3, 30, 5, 29]));
        assert_eq!(shrink(&[3, 100, 5], 40), Some(vec![3, 22, 5]));
        assert_eq!(shrink(&[3, 4], 40), Some(vec![3, 4]), "a table that fits stays");
    }

    #[test]
    fn shrunk_table_fits() {
        for screen in 30..200 {
            let widths = shrink(&[100, 7, 60, 1], screen).unwrap_or_default();
            assert!(framed(&widths) <= screen, "{widths:?} in {screen}");
        }
    }

    #[test]
    fn longer_values_do_not_move_the_columns() {
        for wanted in [[3, 999, 5, 29], [3, 30, 5, 999], [3, 999, 5, 999]] {
            assert_eq!(shrink(&wanted, 80), Some(vec![3, 30, 5, 29]), "{wanted:?}");
        }
    }

    #[test]
    fn too_many_columns_do_not_fit() {
        assert_eq!(shrink(&[8; 20], 80), None);
        assert_eq!(shrink(&[8; 80], 80), None, "the frame alone is wider");
        assert!(
            shrink(&[1; 15], 80).is_some(),
            "columns that were narrow before are no harm"
        );
    }
}
