//! The board of connect4 and its rules.
//!
//! Invariant: pieces rest on the bottom or on other pieces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const ROWS: usize = 6;
const COLUMNS: usize = 7;

/// Six rows of seven fields, from the top.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Board([[i8; COLUMNS]; ROWS]);

/// What came of dropping a piece.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Drop {
    /// There is no such column, or it is full.
    Illegal,
    /// Four in a row.
    Four,
    /// No field is left.
    Full,
    /// The game goes on.
    Open,
}

impl Board {
    /// Columns that are not full.
    pub(super) fn legal(&self) -> Vec<usize> {
        (0..COLUMNS).filter(|&column| self.0[0][column] == 0).collect()
    }

    /// How many pieces lie on the board.
    pub(super) fn pieces(&self) -> u64 {
        self.0.iter().flatten().filter(|&&field| field != 0).count() as u64
    }

    /// Drops a piece.
    pub(super) fn drop(&mut self, column: usize, player: i8) -> Drop {
        let Some(row) = (0..ROWS).rev().find(|&row| self.0[row].get(column) == Some(&0)) else {
            return Drop::Illegal;
        };
        self.0[row][column] = player;
        if [(0, 1), (1, 0), (1, 1), (1, -1)].iter().any(|&way| self.run(row, column, way) >= 4) {
            Drop::Four
        } else if self.legal().is_empty() {
            Drop::Full
        } else {
            Drop::Open
        }
    }

    /// Length of the run through a field, both ways along a direction.
    fn run(&self, row: usize, column: usize, (down, right): (isize, isize)) -> usize {
        let player = self.0[row][column];
        let along = |sign: isize| {
            (1..4)
                .take_while(|&n| {
                    let row = row.checked_add_signed(down * sign * n);
                    let column = column.checked_add_signed(right * sign * n);
                    let field = row
                        .and_then(|row| self.0.get(row))
                        .zip(column)
                        .and_then(|(row, column)| row.get(column));
                    field == Some(&player)
                })
                .count()
        };
        1 + along(1) + along(-1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(columns: &[usize]) -> Drop {
        let mut board = Board::default();
        let mut last = Drop::Open;
        for (turn, &column) in columns.iter().enumerate() {
            assert_eq!(last, Drop::Open, "the game ended before turn {turn}");
            last = board.drop(column, if turn % 2 == 0 { 1 } else { -1 });
        }
        last
    }

    #[test]
    fn four_in_every_direction() {
        assert_eq!(play(&[0, 0, 1, 1, 2, 2, 3]), Drop::Four, "across");
        assert_eq!(play(&[0, 1, 0, 1, 0, 1, 0]), Drop::Four, "up");
        assert_eq!(play(&[0, 1, 1, 2, 2, 3, 2, 3, 3, 6, 3]), Drop::Four, "rising");
        assert_eq!(play(&[6, 5, 5, 4, 4, 3, 4, 3, 3, 0, 3]), Drop::Four, "falling");
        assert_eq!(play(&[0, 0, 1, 1, 3, 3, 2]), Drop::Four, "filled in the middle");
    }

    #[test]
    fn a_full_column_and_a_missing_one_are_illegal() {
        assert_eq!(play(&[0, 0, 0, 0, 0, 0, 0]), Drop::Illegal);
        assert_eq!(play(&[7]), Drop::Illegal);
    }

    #[test]
    fn a_full_board_is_a_draw() {
        // Columns filled in pairs, shifted so that no four of a colour meet.
        let order = [
            0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 2, 3, 2, 3, 3, 2, 3, 2, 2, 3, 2, 3, 4, 5, 4, 5, 5, 4, 5, 4,
            4, 5, 4, 5, 6, 6, 6, 6, 6, 6,
        ];
        assert_eq!(play(&order), Drop::Full);
    }
}
