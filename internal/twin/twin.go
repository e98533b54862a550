// Package twin answers calls of tools from a world that holds state: tables of
// rows that calls read and change (grade E3). It does no I/O and reads no clock;
// whoever uses it brings the bytes.
//
//	def, err := twin.Parse(json)               // one world; every key is known
//	world, err := twin.Compile(def, data, tools) // all problems at once
//	run := world.NewRun(seed)                  // kilobytes; shares the world's tables
//	answer, err := run.Call(tool, args, number)
//	before := run.Snapshot()
//	err = run.Reset(before)
//
// A [World] never changes and may be used by many goroutines; a [Run] by one at a
// time. An [Answer] follows from the definition, the data, the seed and the calls in
// their order, and from nothing else.
//
// This comment is the reference for those who write worlds. A definition is shown as
// the YAML that it is in a project; Parse reads the same as JSON.
//
//	world: shop
//	clock: {start: 2026-03-02T08:00:00Z, tick: 1s}   # or tick: [1s, 5s], drawn per call
//	result: both            # text, structured or both; each tool may differ
//	style: compact          # of text: compact, indent by two spaces, or python as json.dumps writes it
//	script: shop.star       # for tools with call
//	limits: {steps: 1000000, memory: 67108864}   # of one call; bytes
//	tables:
//	  customers:
//	    key: id                       # one field, or a list of several
//	    id: {style: prefix, prefix: cus_, digits: 8}
//	    seed: customers.json          # or {file: shop.json, at: /customers}
//	    unique: [email]               # a list of fields; [[a, b]] for a pair
//	    fields:
//	      status: {type: enum, values: [active, closed], required: true}
//	  refunds:
//	    key: id
//	    id: {style: sequence}
//	    fields:
//	      customer_id: {type: string, refs: customers, on_delete: restrict}
//	    ordered: [/log]               # lists whose order is part of the state
//	tools:
//	  get_customer: {get: customers, key: args.id, missing: no such customer}
//	  find_customers: {list: customers, match: {email: args.email}, limit: 20}
//	  add_customer: {create: customers}
//	  set_customer: {patch: customers, key: args.id}
//	  drop_customer: {delete: customers, key: args.id}
//	  refund:
//	    steps:
//	      - {let: customer, be: tables.customers.get(args.customer_id)}
//	      - {require: customer != None and customer.status == "active", else: refund not allowed}
//	      - {insert: refunds, as: made, set: {customer_id: args.customer_id, amount: args.amount}}
//	      - {return: {refund_id: made.id}}
//	  close_account: {call: close_account}
//
// # Tables
//
// Rows are JSON objects. Fields that are declared are checked, others are kept as
// they are. Types are string, int, number, bool, time (RFC 3339), enum, object, array
// and json, which is anything; null is allowed unless a field is required. With
// key_outside the key is no member of the rows: a seed that is an object by key then
// holds rows without it. A seed is such an object, an array, NDJSON (a file that
// ends in .ndjson or .jsonl) or CSV (.csv, the first line names the fields; "format"
// says it otherwise). refs names the table whose key a field holds; on_delete says
// what becomes of the row when what it refers to is deleted: restrict (the default),
// cascade or null.
//
// Ids that a world makes follow from the seed of the run, the table and how many were
// made before; no id is made that a row has. Styles are sequence (an integer; start),
// prefix (prefix and digits), uuid, and base32 (prefix and length).
//
// # Tools
//
// list gives rows in the order of the table, or by order ("-amount", "name"); match
// holds fields to values, by an index, and where is asked of each row. limit, offset
// and cursor cut; fields picks members. The answer is the array, unless return makes
// something of rows, total and next (a cursor, or None). get, patch and delete answer
// with the row, create with the row it made. create takes set, or the arguments;
// patch changes the members that set, or the arguments other than the key, name.
// missing, duplicate and conflict are the texts of what can go wrong: the answer is
// then an error, and nothing has changed. text is an expression of args and answer, for
// tools that say something else in words than in their structured answer.
//
// Every value in a definition that decides something is an expression in Starlark, of
// args, row (in where, patch and delete), key, tables, and what steps before have let.
// Numbers, booleans and null stand for themselves; an object or a list is made of
// expressions, in its order. a.b is a["b"] where a is an object without a method of
// that name: write order["items"].
//
// Steps have an effect only if all of them succeed. Each may have a when.
//
// # Over a live system
//
// With the binding shadow a world lies over a live system: reads pass to the system, and
// changes are made here alone. Its tables begin empty and hold what the system has shown
// to the run and what the run has made of it.
//
//	shadow:
//	  reads:                        # where the system's answers hold rows
//	    get_customer: {table: customers, row: ""}        # a JSON pointer; "" is the whole
//	    find_customers: {table: customers, rows: /items, count: /total, more: /next,
//	      show: row.status == args.status}
//	    get_order: [{table: orders, row: /order}, {table: customers, row: /customer}]
//	  fetch:                        # how a row is read that a rule needs
//	    customers: {tool: get_customer, args: {id: key}, absent: no such customer}
//	  apart: [weather]              # reads that show no row of any table
//	  opaque: [send_mail]           # changes that no rule can stand for
//
// A rule under tools says what a change does. A get says which row a read asks for, and a
// list which rows belong into an answer (match, where), in which order, and with which
// fields; show says it where no such rule does. count are the numbers that count rows
// ("none": no number does), more is what stands where a further page follows: rows that a
// run has made come with the last. absent is a part of the error that says that there is
// no such row; left out, it is what get has as missing. With a fetch a row is known once
// the fetch has shown it, without one once any answer has. A rule that looks through a
// table cannot be carried out: nobody has seen all of its rows.
//
// # Scripts
//
// call names a function of a script, which gets args and returns the answer. A script
// knows, as expressions do:
//
//	tables.T[key], .get(key)       the row, a copy; get gives None where there is none
//	tables.T.find(field=value)     rows, by an index; .first(...) the first or None
//	tables.T.where(function)       rows for which it is true
//	tables.T.rows(), .keys(), .items(), len(tables.T), key in tables.T
//	tables.T.insert(row)           gives the row, with an id if it had none
//	tables.T.insert(key, row)      where the key is outside of rows
//	tables.T.update(key, changes)  changes members, gives the row
//	tables.T.put(row) or put(key, row)   replaces a row that is there
//	tables.T.delete(key)
//	new_id("T")                    an id, as the table makes them
//	fail(text)                     the answer is an error with this text, nothing changed
//	now(), now_unix()              the time of the world: RFC 3339, seconds
//	unix(text), rfc3339(seconds)   from one to the other
//	rand(), rand_int(low, high)    drawn from the run's seed and the number of the call
//	round(x, digits), round2(x)    as Python rounds
//	sum(list)                      added from the left
//	json(value, style)             text; style as above
//	parse_json(text)               a value, or None where it is not JSON
//	calculate(text)                + - * / and parentheses over numbers, or None
//
// There is no load, printing does nothing, functions cannot recurse. A script that
// fails otherwise than by fail, goes beyond the limits, or writes what a table does not
// allow by type, is a fault of the world and refused with its place.
//
// Numbers that come in as 342.81 or 12345678901234567890 go out with the same bytes
// while they stay where they are, in the row or arguments they came in; computed ones
// are IEEE doubles, or integers of any size, and print as Python prints them.
package twin
