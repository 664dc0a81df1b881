//! A connection whose statements are each prepared once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use rusqlite::{Connection, Params, PrepFlags, Row, Statement};

/// What the store's functions work with, on the thread that owns the connection.
///
/// A statement is found by where its text lies in the program, so no text has to be read to find it. `rusqlite`'s own
/// cache copies and hashes the whole text twice for each use, which was a tenth of the writer's work.
pub struct Db<'c> {
    connection: &'c Connection,
    /// `None` while one is in use.
    prepared: RefCell<HashMap<Place, Option<Statement<'c>>>>,
    streaks_changed: Cell<bool>,
}

/// Address and length of a text.
type Place = (usize, usize);

impl<'c> Db<'c> {
    /// Nothing is prepared yet.
    pub fn on(connection: &'c Connection) -> Self {
        Self { connection, prepared: RefCell::default(), streaks_changed: Cell::default() }
    }

    /// The connection itself, for what is no statement, or one that is used once.
    pub fn connection(&self) -> &'c Connection {
        self.connection
    }

    /// Streaks were changed otherwise than by a batch, which remembers what it has written of them (`memory`).
    pub fn streaks_have_changed(&self) {
        self.streaks_changed.set(true);
    }

    /// Whether they were, since this was asked last.
    pub fn have_streaks_changed(&self) -> bool {
        self.streaks_changed.take()
    }

    /// Runs a statement that returns no rows, and says how many it has changed.
    pub fn execute(&self, sql: &'static str, params: impl Params) -> rusqlite::Result<usize> {
        self.with(sql, |statement| statement.execute(params))
    }

    /// The first row of an answer.
    ///
    /// # Errors
    /// `QueryReturnedNoRows` if there is none (see `OptionalExtension`).
    pub fn query_row<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.with(sql, |statement| statement.query_row(params, read))
    }

    /// All rows of an answer.
    pub fn query_all<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.with(sql, |statement| statement.query_map(params, read)?.collect())
    }

    /// Whether there is any answer.
    pub fn exists(&self, sql: &'static str, params: impl Params) -> rusqlite::Result<bool> {
        self.with(sql, |statement| statement.exists(params))
    }

    /// Hands the statement to `run`, which goes through its rows one by one.
    pub fn with<T, E: From<rusqlite::Error>>(
        &self,
        sql: &'static str,
        run: impl FnOnce(&mut Statement<'c>) -> Result<T, E>,
    ) -> Result<T, E> {
        let place = (sql.as_ptr().addr(), sql.len());
        let idle = self.prepared.borrow_mut().get_mut(&place).and_then(Option::take);
        let mut statement = match idle {
            Some(statement) => statement,
            None => self.connection.prepare_with_flags(sql, PrepFlags::SQLITE_PREPARE_PERSISTENT)?,
        };
        let result = run(&mut statement);
        // Whatever was bound, an event's body for one, is not kept for the next time.
        statement.clear_bindings();
        self.prepared.borrow_mut().insert(place, Some(statement));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNT: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT i FROM n";

    #[test]
    fn a_statement_is_prepared_once_and_twice_where_it_is_in_use() {
        let connection = Connection::open_in_memory().unwrap();
        let db = Db::on(&connection);
        let number = |row: &Row<'_>| row.get::<_, i64>(0);
        assert_eq!(db.query_all(COUNT, [3], number).unwrap(), [1, 2, 3]);
        let nested = db.query_all(COUNT, [2], |outer| {
            Ok((number(outer)?, db.query_all(COUNT, [1], number)?, db.exists(COUNT, [1])?))
        });
        assert_eq!(nested.unwrap(), [(1, vec![1], true), (2, vec![1], true)]);
        assert_eq!(db.prepared.borrow().len(), 1);
    }

    #[test]
    fn one_that_failed_works_the_next_time() {
        let connection = Connection::open_in_memory().unwrap();
        let db = Db::on(&connection);
        let failed = db.query_row(COUNT, [1], |row| row.get::<_, String>(7));
        assert!(failed.is_err());
        assert_eq!(db.query_row(COUNT, [5], |row| row.get::<_, i64>(0)), Ok(1));
        let nothing: rusqlite::Result<usize> = db.execute("INSERT INTO nowhere VALUES (1)", []);
        assert!(nothing.is_err());
    }
}
