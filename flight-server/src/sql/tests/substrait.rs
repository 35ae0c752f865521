//! Substrait plans: what a session elsewhere made of a text gives what the text gives, and what is no such plan is refused.

use bytes::Bytes;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_substrait::logical_plan::producer::to_substrait_plan;
use datafusion_substrait::substrait::proto::exchange_rel::{ExchangeKind, RoundRobin};
use datafusion_substrait::substrait::proto::expression::field_reference::{ReferenceType, RootReference, RootType};
use datafusion_substrait::substrait::proto::expression::literal::LiteralType;
use datafusion_substrait::substrait::proto::expression::reference_segment::{self, StructField};
use datafusion_substrait::substrait::proto::expression::{
    FieldReference, Literal, ReferenceSegment, RexType, ScalarFunction,
};
use datafusion_substrait::substrait::proto::extensions::SimpleExtensionDeclaration;
use datafusion_substrait::substrait::proto::extensions::simple_extension_declaration::{
    ExtensionFunction, MappingType,
};
use datafusion_substrait::substrait::proto::function_argument::ArgType;
use datafusion_substrait::substrait::proto::read_rel::{LocalFiles, NamedTable, ReadType};
use datafusion_substrait::substrait::proto::rel::RelType;
use datafusion_substrait::substrait::proto::rel_common::{Emit, EmitKind};
use datafusion_substrait::substrait::proto::set_rel::SetOp;
use datafusion_substrait::substrait::proto::r#type::{FixedBinary, I64, Kind, Nullability, Struct};
use datafusion_substrait::substrait::proto::{
    ExchangeRel, Expression, FilterRel, FunctionArgument, NamedStruct, Plan, PlanRel, ProjectRel, ReadRel, Rel,
    RelCommon, RelRoot, SetRel, Type, plan_rel,
};
use prost::Message;
use tonic::Code;

use super::*;

fn table_rows() -> RecordBatch {
    batch!(
        ("id", Int64, [1, 2, 3, 4]),
        ("name", Utf8, [Some("a"), Some("b"), None, Some("b")])
    )
}

async fn lake() -> Lake {
    Lake::of(&[("t/0.parquet", table_rows())]).await
}

/// The statement of a plan, in a session whose schema is the lake.
fn of(plan: &Plan) -> Query {
    of_bytes(plan.encode_to_vec())
}

fn of_bytes(bytes: Vec<u8>) -> Query {
    Query {
        text: Text::Substrait(Bytes::from(bytes)),
        options: SessionOptions {
            schema: "lake".to_owned(),
            ..SessionOptions::default()
        },
        ..Query::default()
    }
}

/// What a session that has the table, and none of its rows, makes of a text.
async fn planned(sql: &str) -> Plan {
    let context = SessionContext::new_with_config(SessionConfig::new().with_information_schema(true));
    let empty = RecordBatch::new_empty(table_rows().schema());
    context.register_batch("t", empty).unwrap();
    let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
    *to_substrait_plan(&plan, &context.state()).unwrap()
}

async fn refused(lake: &Lake, query: &Query) -> ServiceError {
    match lake.ask(query).await {
        Ok(batches) => panic!("it gave {:?}", rows(&batches)),
        Err(error) => error,
    }
}

/// A plan of one tree, whose columns keep their names.
fn tree(kind: RelType) -> Plan {
    Plan {
        relations: vec![PlanRel {
            rel_type: Some(plan_rel::RelType::Root(RelRoot {
                input: Some(rel(kind)),
                names: Vec::new(),
            })),
        }],
        ..Plan::default()
    }
}

fn rel(kind: RelType) -> Rel {
    Rel { rel_type: Some(kind) }
}

/// The ids of a table.
fn ids(names: &[&str]) -> RelType {
    let number = Type {
        kind: Some(Kind::I64(I64 {
            type_variation_reference: 0,
            nullability: Nullability::Nullable as i32,
        })),
    };
    let columns = Struct {
        types: vec![number],
        type_variation_reference: 0,
        nullability: Nullability::Required as i32,
    };
    RelType::Read(Box::new(ReadRel {
        base_schema: Some(NamedStruct {
            names: vec!["id".to_owned()],
            r#struct: Some(columns),
        }),
        read_type: Some(ReadType::NamedTable(NamedTable {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..NamedTable::default()
        })),
        ..ReadRel::default()
    }))
}

fn filter(input: RelType, condition: Expression) -> RelType {
    RelType::Filter(Box::new(FilterRel {
        input: Some(Box::new(rel(input))),
        condition: Some(Box::new(condition)),
        ..FilterRel::default()
    }))
}

fn column(at: i32) -> Expression {
    let field = StructField { field: at, child: None };
    let segment = ReferenceSegment {
        reference_type: Some(reference_segment::ReferenceType::StructField(Box::new(field))),
    };
    let reference = FieldReference {
        reference_type: Some(ReferenceType::DirectReference(segment)),
        root_type: Some(RootType::RootReference(RootReference {})),
    };
    Expression {
        rex_type: Some(RexType::Selection(Box::new(reference))),
    }
}

fn truth(value: bool) -> Expression {
    let literal = Literal {
        literal_type: Some(LiteralType::Boolean(value)),
        ..Literal::default()
    };
    Expression {
        rex_type: Some(RexType::Literal(literal)),
    }
}

/// A call of the one function that a plan declares.
fn call(arguments: Vec<Expression>) -> Expression {
    let arguments = arguments.into_iter().map(|argument| FunctionArgument {
        arg_type: Some(ArgType::Value(argument)),
    });
    Expression {
        rex_type: Some(RexType::ScalarFunction(ScalarFunction {
            arguments: arguments.collect(),
            ..ScalarFunction::default()
        })),
    }
}

/// The ids of the table for which a condition holds that calls this function.
fn where_called(function: &str, condition: Expression) -> Plan {
    Plan {
        extensions: vec![SimpleExtensionDeclaration {
            mapping_type: Some(MappingType::ExtensionFunction(ExtensionFunction {
                name: function.to_owned(),
                ..ExtensionFunction::default()
            })),
        }],
        ..tree(filter(ids(&["t"]), condition))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_gives_what_its_text_gives() {
    let lake = lake().await;
    for sql in [
        "SELECT * FROM t",
        "SELECT name, id + 1 AS m FROM t WHERE id > 1",
        "SELECT count(*) AS c, sum(id) AS s, name FROM t GROUP BY name ORDER BY c DESC, name",
        "SELECT a.id, b.name FROM t a LEFT JOIN t b ON a.id = b.id + 1 ORDER BY 1 DESC LIMIT 2",
        "SELECT id FROM t x WHERE EXISTS (SELECT 1 FROM t y WHERE y.id = x.id + 1) ORDER BY id",
        "SELECT id, row_number() OVER (PARTITION BY name ORDER BY id) AS r FROM t ORDER BY id",
        "SELECT id FROM t UNION ALL SELECT id * 10 FROM t ORDER BY 1",
        "SELECT CASE WHEN name = 'b' THEN 'yes' ELSE 'no' END AS v, substr(name, 1, 1) AS w FROM t ORDER BY id",
        "SELECT 1 AS one, 'x' AS two",
        "VALUES (1, 'a'), (2, 'b')",
    ] {
        let plan = of(&planned(sql).await);
        let text = Query {
            text: Text::Sql(sql.to_owned()),
            ..plan.clone()
        };
        let described = lake.node.sql.describe(&lake.node, &plan).await.unwrap();
        let expected = lake.node.sql.describe(&lake.node, &text).await.unwrap();
        assert_eq!(described.schema, expected.schema, "{sql}");
        assert_eq!(described.scan, expected.scan, "{sql}");
        let (got, wanted) = (lake.ask(&plan).await.unwrap(), lake.ask(&text).await.unwrap());
        assert_eq!(sorted(rows(&got)), sorted(rows(&wanted)), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_plan_has_the_names_that_it_has_in_a_text() {
    let lake = lake().await;
    for names in [
        &["t"][..],
        &["lake", "t"],
        &["jetbridge", "lake", "t"],
        &["/lake/t"],
        &["public", "/lake/t"],
    ] {
        let found = lake.ask(&of(&tree(ids(names)))).await.unwrap();
        assert_eq!(rows(&found), ["1", "2", "3", "4"], "{names:?}");
    }
    let error = refused(&lake, &of(&tree(ids(&["tt"])))).await;
    assert_eq!(error.code(), Code::NotFound, "{error:?}");
    assert!(error.to_string().contains("did you mean lake.t?"), "{error}");
    let error = refused(&lake, &of(&tree(ids(&["jetbridge", "lake", "sub", "t"])))).await;
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    let listed = planned("SELECT table_name FROM information_schema.tables WHERE table_schema = 'lake'").await;
    assert_eq!(rows(&lake.ask(&of(&listed)).await.unwrap()), ["t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_plan_has_the_columns_that_the_plan_says() {
    let lake = Lake::of(&[("t/0.parquet", batch!(("id", Utf8, ["1"]), ("idd", Int64, [1])))]).await;
    let error = refused(&lake, &of(&tree(ids(&["t"])))).await;
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    assert!(error.to_string().contains("'id'"), "{error}");
    let lake = Lake::of(&[("t/0.parquet", batch!(("idd", Int64, [1])))]).await;
    let error = refused(&lake, &of(&tree(ids(&["t"])))).await;
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    assert!(error.to_string().contains("did you mean idd?"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_a_plan_stand_in_for_values() {
    let lake = lake().await;
    let plan = of(&planned("SELECT id FROM t WHERE id = $1 AND name = $2").await);
    let described = lake.node.sql.describe(&lake.node, &plan).await.unwrap();
    let names: Vec<&str> = described
        .parameters
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["$1", "$2"]);
    let bound = Query {
        parameters: Some(batch!(("a", Int64, [2]), ("b", Utf8, ["b"]))),
        ..plan.clone()
    };
    assert_eq!(rows(&lake.ask(&bound).await.unwrap()), ["2"]);
    let error = refused(&lake, &plan).await;
    assert!(error.to_string().contains("no values were given"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_and_what_is_not_read_is_named() {
    let lake = lake().await;
    let files = ReadRel {
        read_type: Some(ReadType::LocalFiles(LocalFiles::default())),
        ..ReadRel::default()
    };
    for (kind, words) in [
        (RelType::Write(Box::default()), "WriteRel: SQL reads"),
        (RelType::Ddl(Box::default()), "DdlRel: SQL reads"),
        (RelType::Update(Box::default()), "UpdateRel: SQL reads"),
        (RelType::HashJoin(Box::default()), "HashJoinRel"),
        (RelType::Read(Box::new(files)), "files by their paths"),
    ] {
        let error = refused(&lake, &of(&tree(kind))).await;
        assert_eq!(error.code(), Code::Unimplemented, "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let unknown = where_called("no_such_function:i64", call(vec![column(0)]));
    let error = refused(&lake, &of(&unknown)).await;
    assert_eq!(error.code(), Code::Unimplemented, "{error:?}");
    assert!(error.to_string().contains("no_such_function"), "{error}");
    // How rows are spread changes none of them, into however many parts.
    let spread = RelType::Exchange(Box::new(ExchangeRel {
        input: Some(Box::new(rel(ids(&["t"])))),
        exchange_kind: Some(ExchangeKind::RoundRobin(RoundRobin::default())),
        partition_count: i32::MAX,
        ..ExchangeRel::default()
    }));
    let found = lake.ask(&of(&tree(spread))).await.unwrap();
    assert_eq!(rows(&found), ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plan_is_refused_in_words() {
    let lake = lake().await;
    for bytes in [
        Vec::new(),
        b"select 1".to_vec(),
        vec![0xff; 100],
        vec![0; super::super::MAX_SQL_BYTES + 1],
    ] {
        let error = refused(&lake, &of_bytes(bytes)).await;
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    }
    // Parts that are not there, and columns that no input has.
    let emitted = RelType::Project(Box::new(ProjectRel {
        common: Some(RelCommon {
            emit_kind: Some(EmitKind::Emit(Emit {
                output_mapping: vec![7],
            })),
            ..RelCommon::default()
        }),
        input: Some(Box::new(rel(ids(&["t"])))),
        ..ProjectRel::default()
    }));
    for kind in [
        RelType::Join(Box::default()),
        filter(ids(&["t"]), column(7)),
        filter(ids(&["t"]), column(-1)),
        emitted,
    ] {
        let error = refused(&lake, &of(&tree(kind))).await;
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    }
    assert_eq!(lake.rows("SELECT count(*) FROM lake.t").await, ["4"]);
}

/// Each of these is short, and would have the reader or the optimizer make a tree that is deeper than any stack, or larger
/// than any memory, or compare everything with everything.
#[tokio::test(flavor = "multi_thread")]
async fn the_depth_and_the_width_of_a_plan_are_bounded() {
    let lake = lake().await;
    let turned_away = async |plan: Plan, words: &str| {
        let error = refused(&lake, &of(&plan)).await;
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let deep = (0..200).fold(ids(&["t"]), |input, _| filter(input, truth(true)));
    turned_away(tree(deep), "nests deeper").await;
    let wide = RelType::Set(SetRel {
        inputs: vec![rel(ids(&["t"])); 5_000],
        op: SetOp::UnionAll as i32,
        ..SetRel::default()
    });
    turned_away(tree(wide), "relations in one").await;
    turned_away(
        where_called("and", call(vec![truth(true); 50_000])),
        "conditions joined",
    )
    .await;
    let project = RelType::Project(Box::new(ProjectRel {
        input: Some(Box::new(rel(ids(&["t"])))),
        expressions: vec![column(0); 50_000],
        ..ProjectRel::default()
    }));
    turned_away(tree(project), "columns in the lists").await;
    let listed = |expressions: Vec<Expression>, emitted: Vec<i32>| {
        RelType::Project(Box::new(ProjectRel {
            common: Some(RelCommon {
                emit_kind: Some(EmitKind::Emit(Emit {
                    output_mapping: emitted,
                })),
                ..RelCommon::default()
            }),
            input: Some(Box::new(rel(ids(&["t"])))),
            expressions,
            ..ProjectRel::default()
        }))
    };
    let repeated = "lists one column more than";
    turned_away(tree(listed(vec![column(0); 300], vec![1])), repeated).await;
    turned_away(tree(listed(vec![truth(true)], vec![1; 300])), repeated).await;
    // A long condition, listed over and over.
    let long = (0..20_000).map(|row| truth(row % 2 == 0)).collect();
    let mut copied = where_called("and", call(vec![truth(true)]));
    copied.relations = tree(listed(vec![call(long), truth(true)], vec![1; 250])).relations;
    turned_away(copied, "copied as often").await;
    let wide = Type {
        kind: Some(Kind::FixedBinary(FixedBinary {
            length: i32::MAX,
            nullability: Nullability::Nullable as i32,
            ..FixedBinary::default()
        })),
    };
    let null = Literal {
        literal_type: Some(LiteralType::Null(wide)),
        ..Literal::default()
    };
    let null = Expression {
        rex_type: Some(RexType::Literal(null)),
    };
    turned_away(tree(listed(vec![null], vec![1])), "wider than").await;
    // As deep as the decoder lets it be: written out, each level would be twice the one below.
    let differing = (0..25).fold(truth(false), |inner, _| call(vec![inner, truth(false)]));
    let none = lake.ask(&of(&where_called("xor:bool_bool", differing))).await.unwrap();
    assert_eq!(rows(&none), [""; 0]);
    let nested = (0..44).fold(ids(&["t"]), |input, _| filter(input, truth(true)));
    assert_eq!(rows(&lake.ask(&of(&tree(nested))).await.unwrap()).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_plan_is_answered_or_refused() {
    let lake = lake().await;
    let whole = planned("SELECT name, count(*) AS c FROM t WHERE id > 1 GROUP BY name ORDER BY c LIMIT 3").await;
    let whole = whole.encode_to_vec();
    let mut refusals = 0;
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 0x11;
        for bytes in [altered, whole[..at].to_vec()] {
            let described = lake.node.sql.describe(&lake.node, &of_bytes(bytes)).await;
            refusals += usize::from(described.is_err());
        }
    }
    assert!(refusals > whole.len(), "{refusals} of {} were refused", 2 * whole.len());
    assert_eq!(rows(&lake.ask(&of_bytes(whole)).await.unwrap()).len(), 2);
}
