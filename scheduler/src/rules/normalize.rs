//! How ratings of different rules become comparable points.

use super::MAX_SCORE;

/// How ratings become 0..=100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalize {
    /// They already are.
    No,
    /// The best gets 100, the rest their share of it.
    Share,
    /// The worst gets 0 (all get 100 where every rating is 0).
    Reverse,
    /// The best gets 100, the worst 0, the rest in between.
    Range,
    /// The lowest is the best, and 0 only what is twice as bad.
    Even,
}

impl Normalize {
    /// Points in the place of ratings. What has no rating has no points.
    // Follows plugins/helper/normalize_score.go, interpodaffinity/scoring.go and podtopologyspread/scoring.go (1.36).
    pub fn apply(self, ratings: &mut [Option<i64>]) {
        let most = ratings.iter().flatten().copied().max().unwrap_or(0);
        let least = ratings.iter().flatten().copied().min().unwrap_or(0);
        let points = |rating: i64| match self {
            Normalize::No => rating,
            Normalize::Share if most == 0 => rating,
            Normalize::Share => rating * MAX_SCORE / most,
            Normalize::Reverse if most == 0 => MAX_SCORE,
            Normalize::Reverse => MAX_SCORE - rating * MAX_SCORE / most,
            Normalize::Range if most == least => 0,
            // Upstream goes by floating point here, and rounds towards zero.
            Normalize::Range => (MAX_SCORE as f64 * ((rating - least) as f64 / (most - least) as f64)) as i64,
            Normalize::Even if most == 0 => MAX_SCORE,
            Normalize::Even => MAX_SCORE * (most + least - rating) / most,
        };
        for rating in ratings {
            *rating = rating.map(points);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_become_points_as_each_rule_has_it() {
        let check = |how: Normalize, ratings: &[i64], want: &[i64]| {
            let mut points: Vec<Option<i64>> = ratings.iter().copied().map(Some).collect();
            how.apply(&mut points);
            assert_eq!(points, want.iter().copied().map(Some).collect::<Vec<_>>(), "{how:?}");
        };
        check(Normalize::No, &[7], &[7]);
        check(Normalize::Share, &[1, 2, 0], &[50, 100, 0]);
        check(Normalize::Reverse, &[1, 2, 0], &[50, 0, 100]);
        check(Normalize::Reverse, &[0, 0], &[100, 100]);
        check(Normalize::Range, &[-5, 0, 5], &[0, 50, 100]);
        check(Normalize::Range, &[3, 3], &[0, 0]);
        check(Normalize::Even, &[1, 2, 4], &[100, 75, 25]);
        check(Normalize::Even, &[0, 0], &[100, 100]);
    }

    #[test]
    fn what_has_no_rating_has_no_points() {
        let mut ratings = [None, Some(3)];
        Normalize::Even.apply(&mut ratings);
        assert_eq!(ratings, [None, Some(100)]);
    }
}
