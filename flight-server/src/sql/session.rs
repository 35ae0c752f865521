//! The session of one query: what DataFusion is told, and the tables that it may find.
//!
//! Tables are resolved before a statement is planned, so that planning waits for nothing: the statement's names are looked up,
//! and the session's catalog holds what they mean and no more. Statements about the catalog itself find all of it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;

use super::catalog::{self, Names, TableName};
use super::table::DatasetTable;
use super::{CATALOG, SessionOptions, SqlError, functions};
use crate::error::ServiceError;
use crate::node::Node;

/// The schema in which the catalog tells of itself.
pub(super) const INFORMATION_SCHEMA: &str = "information_schema";

/// Rows of the batches that operators work on: few enough for a core's cache, enough to pay for a call.
const OPERATOR_ROWS: usize = 8 << 10;

/// Everything that sessions have in common: functions, rules, planners.
static BASE: LazyLock<SessionState> = LazyLock::new(|| {
    SessionStateBuilder::new()
        .with_default_features()
        .with_config(config())
        .build()
});

/// What a session may use, and what its query asked for.
pub(super) struct Bounds<'a> {
    pub(super) options: &'a SessionOptions,
    pub(super) runtime: Arc<RuntimeEnv>,
    /// Partitions that a plan is to have.
    pub(super) partitions: usize,
    /// Bytes that the query may hold.
    pub(super) memory_bytes: u64,
}

/// Bytes that a sort which spills sets aside for putting its parts together, at most, and one part in this many of what the
/// query may hold.
const MERGE_BYTES: usize = 10 << 20;
const MERGE_SHARE: u64 = 8;

/// Bytes that each of so many sorts of a query sets aside, which may hold `memory_bytes`.
pub(super) fn merge_bytes(memory_bytes: u64, partitions: usize) -> usize {
    let share = usize::try_from(memory_bytes / MERGE_SHARE).unwrap_or(usize::MAX);
    (share / partitions.max(1)).min(MERGE_BYTES)
}

/// A session for one query, with the tables that its statement names.
///
/// # Errors
/// NOT_FOUND for a name that nothing has; those of [`Names::find`].
pub(super) async fn open(
    node: &Arc<Node>,
    names: &Names,
    statement: &Statement,
    bounds: Bounds<'_>,
) -> Result<SessionState, ServiceError> {
    let options = bounds.options;
    let mut state = without_tables(node, bounds)?;
    let references = state
        .resolve_table_references(statement)
        .map_err(|error| super::errors::of_datafusion(&error))?;
    let catalogs = resolve(node, names, &state, references, options).await?;
    state.register_catalog_list(Arc::new(catalogs));
    Ok(state)
}

/// A session for one query that finds no table.
///
/// # Errors
/// NOT_FOUND for a catalog that is not there.
pub(super) fn without_tables(node: &Arc<Node>, bounds: Bounds<'_>) -> Result<SessionState, ServiceError> {
    let options = bounds.options;
    if options.catalog != CATALOG {
        return Err(ServiceError::NoSuchTable {
            name: format!("in a catalog {}", options.catalog),
            hint: format!("; the catalog is {CATALOG}"),
        });
    }
    let mut config = BASE.config().clone().with_target_partitions(bounds.partitions);
    config.options_mut().catalog.default_schema.clone_from(&options.schema);
    super::distributed::prepare(&mut config, node);
    let merge_bytes = merge_bytes(bounds.memory_bytes, config.target_partitions());
    config.options_mut().execution.sort_spill_reservation_bytes = merge_bytes;
    let mut state = SessionStateBuilder::new_from_existing(BASE.clone())
        .with_config(config)
        .with_runtime_env(bounds.runtime)
        .with_catalog_list(Arc::new(Catalogs::default()))
        .build();
    functions::bound(&mut state, bounds.memory_bytes).map_err(|error| super::errors::of_datafusion(&error))?;
    Ok(state)
}

/// The table of one name, for a plan whose names are known only as they are met.
///
/// # Errors
/// As [`open`].
pub(super) async fn table(
    node: &Arc<Node>,
    names: &Names,
    state: &SessionState,
    reference: &TableReference,
    options: &SessionOptions,
) -> Result<Arc<dyn TableProvider>, ServiceError> {
    let catalogs = resolve(node, names, state, vec![reference.clone()], options).await?;
    let mut state = state.clone();
    state.register_catalog_list(Arc::new(catalogs));
    let found = match state.schema_for_ref(reference.clone()) {
        Ok(schema) => schema.table(reference.table()).await,
        Err(error) => Err(error),
    };
    let found = found.map_err(|error| super::errors::of_datafusion(&error))?;
    found.ok_or_else(|| ServiceError::NoSuchTable {
        name: reference.to_string(),
        hint: String::new(),
    })
}

fn config() -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true)
        .with_batch_size(OPERATOR_ROWS)
        .with_collect_statistics(true);
    let options = config.options_mut();
    options.catalog.default_catalog = CATALOG.to_owned();
    options.sql_parser.collect_spans = true;
    // Text is text, as the datasets have it; a cast makes no other kind of it.
    options.sql_parser.map_string_types_to_utf8view = false;
    config
}

/// Looks up the tables that a statement names.
async fn resolve(
    node: &Arc<Node>,
    names: &Names,
    state: &SessionState,
    references: Vec<TableReference>,
    options: &SessionOptions,
) -> Result<Catalogs, ServiceError> {
    let mut catalogs = Catalogs::default();
    let mut all = false;
    for reference in references {
        if reference.schema() == Some(INFORMATION_SCHEMA) {
            all = true;
            continue;
        }
        let is_function = matches!(&reference, TableReference::Bare { table } if state.table_functions().contains_key(table.as_ref()));
        if is_function {
            continue;
        }
        let place = Place::of(&reference, options);
        let dataset = names.find(node, &place.name).await?;
        let table = DatasetTable::new(node, dataset);
        catalogs.add(place.catalog, place.schema, place.name.table, Arc::new(table));
    }
    if all {
        for (entry, dataset) in catalog::list(node, None).await {
            let table = DatasetTable::new(node, dataset);
            catalogs.add(CATALOG.to_owned(), entry.schema, entry.name, Arc::new(table));
        }
    }
    catalogs.0.entry(CATALOG.to_owned()).or_default();
    Ok(catalogs)
}

/// Where DataFusion will look for a table, and the name that it means there.
struct Place {
    catalog: String,
    schema: String,
    name: TableName,
}

impl Place {
    /// `a.b.c` is table `c` of the folder `/a/b` where `a` is not the catalog.
    fn of(reference: &TableReference, options: &SessionOptions) -> Self {
        let catalog = reference.catalog().unwrap_or(CATALOG).to_owned();
        let schema = reference.schema().unwrap_or(&options.schema).to_owned();
        let folder = match catalog.as_str() {
            CATALOG => schema.clone(),
            other => format!("{other}.{schema}"),
        };
        Self {
            catalog,
            schema,
            name: TableName {
                schema: folder,
                table: reference.table().to_owned(),
            },
        }
    }
}

/// The catalogs of one session: the one there is, and those that are folders before dots.
#[derive(Debug, Default)]
struct Catalogs(HashMap<String, HashMap<String, Schema>>);

type Schema = HashMap<String, Arc<dyn TableProvider>>;

impl Catalogs {
    fn add(&mut self, catalog: String, schema: String, name: String, table: Arc<dyn TableProvider>) {
        let schemas = self.0.entry(catalog).or_default();
        schemas.entry(schema).or_default().insert(name, table);
    }
}

impl CatalogProviderList for Catalogs {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let schemas = self.0.get(name)?;
        let schemas = schemas
            .iter()
            .map(|(name, tables)| (name.clone(), Arc::new(Tables(tables.clone()))));
        Some(Arc::new(Schemas(schemas.collect())))
    }
}

#[derive(Debug)]
struct Schemas(HashMap<String, Arc<Tables>>);

impl CatalogProvider for Schemas {
    fn schema_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let tables = self.0.get(name)?;
        Some(Arc::<Tables>::clone(tables))
    }
}

#[derive(Debug)]
struct Tables(Schema);

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(self.0.get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// The error of a session that names no schema.
pub(super) fn check_options(options: &SessionOptions) -> Result<(), ServiceError> {
    if options.schema.is_empty() || options.batch_rows == 0 {
        return Err(SqlError::new("a session needs a schema, and batches of a row at least").into());
    }
    Ok(())
}
