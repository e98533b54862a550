package twin

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"sallyport/internal/wire"
)

// Run is the state of one run: what it has changed of a world's tables. It is used by
// one goroutine at a time.
type Run struct {
	world   *World
	seed    uint64
	tables  []overlay
	made    []uint64 // ids, by table
	clock   time.Time
	journal []undo
	serial  uint64 // of the journal's entries, never used twice

	live      *learned // of a run over a live system; nil for others
	forgotten int      // how often the journal was begun anew
}

// overlay is what a run has changed of one table, by the number of the row. Rows of
// the run itself are numbered behind those of the table.
type overlay struct {
	rows    map[int]changed
	created map[string]int // by key
	next    int            // behind the rows of the table
}

// changed is a row of a run; a row without bytes is gone.
type changed struct {
	key string
	raw []byte
	sum *setSum // what it makes of the sum of its table; nil until it was asked for
}

// undo takes back one change.
type undo struct {
	serial uint64
	table  int
	row    int
	key    string
	before []byte // nil if there was no row
	fresh  bool   // the overlay did not know the row
}

// NewRun begins a run at the state of the world's seeds.
func (w *World) NewRun(seed uint64) *Run {
	return &Run{world: w, seed: seed, tables: make([]overlay, len(w.tables)), made: make([]uint64, len(w.tables)), clock: w.start}
}

// Clock is the time in the run's world.
func (r *Run) Clock() time.Time { return r.clock }

// Snapshot is a state that a run can go back to.
type Snapshot struct {
	run     *Run
	changes int
	serial  uint64 // of the last of them
	next    []int
	made    []uint64
	clock   time.Time

	forgotten int
}

// Snapshot marks the state of the run. It copies no rows.
func (r *Run) Snapshot() *Snapshot {
	s := &Snapshot{run: r, changes: len(r.journal), made: slices.Clone(r.made), clock: r.clock, next: make([]int, len(r.tables)), forgotten: r.forgotten}
	if s.changes > 0 {
		s.serial = r.journal[s.changes-1].serial
	}
	for i := range r.tables {
		s.next[i] = r.tables[i].next
	}
	return s
}

// Reset brings the run back to an earlier state, in time that grows with what has
// changed since. It is an error if the snapshot is of another run, or of a state that
// the run has gone back behind in the meantime, or left for good by learning something
// of a live system; the run is then as it was.
func (r *Run) Reset(s *Snapshot) error {
	if s.run != r {
		return errors.New("resetting a run: the snapshot is of another run")
	}
	if s.forgotten != r.forgotten {
		return errors.New("resetting a run: it has learned something since")
	}
	if s.changes > len(r.journal) || s.changes > 0 && r.journal[s.changes-1].serial != s.serial {
		return errors.New("resetting a run: the run has gone back behind this snapshot; take a new one")
	}
	for len(r.journal) > s.changes {
		u := r.journal[len(r.journal)-1]
		r.journal = r.journal[:len(r.journal)-1]
		o := &r.tables[u.table]
		if u.fresh {
			delete(o.rows, u.row)
		} else {
			o.rows[u.row] = changed{key: u.key, raw: u.before}
		}
		if u.row >= r.world.tables[u.table].len() {
			if u.before == nil {
				delete(o.created, u.key)
			} else {
				o.created[u.key] = u.row
			}
		}
	}
	for i := range r.tables {
		r.tables[i].next = s.next[i]
	}
	copy(r.made, s.made)
	r.clock = s.clock
	return nil
}

// Hash is over the rows of all tables, each a set: the order in which they came to be
// does not count, nor that of members and, unless a table says so, of lists; equal
// numbers are equal however they are written. The clock is no part of it.
func (r *Run) Hash() [32]byte {
	return r.digest("sallyport twin state 1\x00", (*table).baseSum)
}

// Delta is a hash over what the run has made of the seeds, in time that grows with that
// alone: of two runs in one world, those with equal hashes have equal deltas.
func (r *Run) Delta() [32]byte {
	return r.digest("sallyport twin delta 1\x00", func(*table) setSum { return setSum{} })
}

// digest is over a sum of each table and what the run has added to it and taken away.
func (r *Run) digest(what string, base func(*table) setSum) [32]byte {
	text := []byte(what)
	for i, t := range r.world.tables {
		sum, rows := base(t), r.tables[i].rows
		for n, c := range rows {
			if c.sum == nil {
				c.sum = &setSum{}
				if n < t.len() {
					c.sum.remove(t, t.key(n), t.row(n))
				}
				if c.raw != nil {
					c.sum.add(t, []byte(c.key), c.raw)
				}
				rows[n] = c
			}
			for lane := range sum {
				sum[lane] += c.sum[lane]
			}
		}
		text = binary.BigEndian.AppendUint32(text, uint32(len(t.name)))
		text = append(text, t.name...)
		for _, lane := range sum {
			text = binary.BigEndian.AppendUint64(text, lane)
		}
	}
	return sha256.Sum256(text)
}

// Rows calls visit with the key and bytes of each row of a table in their order,
// until it returns false. There are none in a table that is not known.
func (r *Run) Rows(table string, visit func(key string, row []byte) bool) {
	if t := r.world.byName[table]; t != nil {
		r.each(t, func(_ int, key, row []byte) bool { return visit(string(key), row) })
	}
}

func (r *Run) each(t *table, visit func(n int, key, row []byte) bool) {
	r.lacks(t, "")
	o := &r.tables[t.place]
	for n := range t.len() {
		if c, ok := o.rows[n]; ok {
			if c.raw != nil && !visit(n, t.key(n), c.raw) {
				return
			}
		} else if !visit(n, t.key(n), t.row(n)) {
			return
		}
	}
	for n := t.len(); n < t.len()+o.next; n++ {
		if c := o.rows[n]; c.raw != nil && !visit(n, []byte(c.key), c.raw) {
			return
		}
	}
}

// get is the row with a key, and its number.
func (r *Run) get(t *table, key string) (n int, raw []byte, ok bool) {
	o := &r.tables[t.place]
	if !r.knows(t, key) {
		r.lacks(t, key)
		return 0, nil, false
	}
	if n, ok := o.created[key]; ok {
		return n, o.rows[n].raw, true
	}
	if n, ok = t.find(key); !ok {
		return 0, nil, false
	}
	if c, known := o.rows[n]; known {
		return n, c.raw, c.raw != nil
	}
	return n, t.row(n), true
}

// match are the numbers of the rows whose fields have these values, in their order.
// text is what fieldsText makes of them.
func (r *Run) match(t *table, names []string, text string) []int {
	r.lacks(t, "")
	has := func(row []byte) bool {
		own, _ := fieldsText(row, names)
		return own == text
	}
	o := &r.tables[t.place]
	var found []int
	for _, n := range t.index(names).candidates(text) {
		if _, known := o.rows[int(n)]; !known && has(t.row(int(n))) {
			found = append(found, int(n))
		}
	}
	for n, c := range o.rows {
		if c.raw != nil && has(c.raw) {
			found = append(found, n)
		}
	}
	slices.Sort(found)
	return found
}

// at is the row with that number, which is there.
func (r *Run) at(t *table, n int) (key string, raw []byte) {
	if c, ok := r.tables[t.place].rows[n]; ok {
		return c.key, c.raw
	}
	return string(t.key(n)), t.row(n)
}

// put writes a row, or without raw removes it, and remembers what was there.
func (r *Run) put(t *table, n int, key string, raw []byte) {
	o := &r.tables[t.place]
	if o.rows == nil {
		o.rows, o.created = map[int]changed{}, map[string]int{}
	}
	before, known := o.rows[n]
	u := undo{table: t.place, row: n, key: key, before: before.raw, fresh: !known}
	r.serial++
	u.serial = r.serial
	r.journal = append(r.journal, u)
	o.rows[n] = changed{key: key, raw: raw}
	r.touch(t, key)
	if n >= t.len() {
		if raw == nil {
			delete(o.created, key)
		} else {
			o.created[key] = n
		}
	}
}

// newID is the next id of a table.
func (r *Run) newID(t *table) ([]byte, error) {
	const attempts = 1000
	for attempt := range uint64(attempts) {
		id, err := t.makeID(r.seed, r.made[t.place], attempt)
		if err != nil {
			return nil, err
		}
		if !r.taken(t, string(id)) {
			r.made[t.place]++
			return id, nil
		}
	}
	return nil, fmt.Errorf("table %s: %d ids in a row are taken; give its ids more digits", t.name, attempts)
}

// insert adds a row and returns its key. Without a key of its own it gets one, before
// its other members.
func (r *Run) insert(t *table, key string, row []byte) (string, []byte, error) {
	if !t.def.KeyOutside {
		if len(t.def.Key) == 1 {
			if raw := memberOf(row, t.def.Key[0]); raw == nil || raw[0] == 'n' {
				id, err := r.newID(t)
				if err != nil {
					return "", nil, err
				}
				row = withMembers(row, []member{{t.def.Key[0], id}}, true)
			}
		}
		var err error
		if key, err = t.keyOf(row); err != nil {
			return "", nil, err
		}
	} else if key == "" {
		id, err := r.newID(t)
		if err != nil {
			return "", nil, err
		}
		key = string(id)
	}
	if _, _, taken := r.get(t, key); taken {
		return "", nil, violate("duplicate", "%s already exists", key)
	}
	if err := r.fits(t, -1, nil, row); err != nil {
		return "", nil, err
	}
	o := &r.tables[t.place]
	n := t.len() + o.next
	o.next++
	r.put(t, n, key, row)
	return key, row, nil
}

// replace writes a row that is there anew; its key stays.
func (r *Run) replace(t *table, key string, row []byte) error {
	n, before, ok := r.get(t, key)
	if !ok {
		return violate("missing", "%s not found", key)
	}
	if !t.def.KeyOutside {
		if now, err := t.keyOf(row); err != nil {
			return err
		} else if now != key {
			return violate("type", "the key of a row cannot change, from %s to %s", key, now)
		}
	}
	if err := r.fits(t, n, before, row); err != nil {
		return err
	}
	r.put(t, n, key, row)
	return nil
}

// fits holds a row that is to be number n against the rules of its table.
func (r *Run) fits(t *table, n int, before, row []byte) error {
	if err := t.check(row); err != nil {
		return err
	}
	for i := range t.fields {
		f := &t.fields[i]
		if f.target == nil {
			continue
		}
		text, whole := fieldsText(row, []string{f.name})
		if !whole {
			continue
		}
		if before != nil {
			if was, _ := fieldsText(before, []string{f.name}); was == text {
				continue
			}
		}
		if _, _, ok := r.get(f.target, text); !ok {
			return violate("conflict", "%s %s not found", f.name, text)
		}
	}
	for _, names := range t.unique {
		text, whole := fieldsText(row, names)
		if !whole {
			continue
		}
		if slices.ContainsFunc(r.match(t, names, text), func(m int) bool { return m != n }) {
			return violate("duplicate", "%s %s already exists", names[0], text)
		}
	}
	return nil
}

// remove deletes a row, and does to those that refer to it what they say.
func (r *Run) remove(t *table, key string) ([]byte, error) {
	n, row, ok := r.get(t, key)
	if !ok {
		return nil, violate("missing", "%s not found", key)
	}
	r.put(t, n, key, nil)
	for _, ref := range r.world.referrers[t.place] {
		for _, m := range r.match(ref.table, []string{ref.field.name}, key) {
			var err error
			other, raw := r.at(ref.table, m)
			switch ref.field.OnDelete {
			case "cascade":
				_, err = r.remove(ref.table, other)
			case "null":
				err = r.replace(ref.table, other, withMembers(raw, []member{{ref.field.name, []byte("null")}}, false))
			default:
				err = violate("conflict", "%s is in use", key)
			}
			// A cascade may have removed, on its way, what was found here.
			var v *violation
			if errors.As(err, &v) && v.kind == "missing" {
				err = nil
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return row, nil
}

// member is a member of an object, with its value as JSON.
type member struct {
	name string
	raw  []byte
}

// withMembers is the object with members set: in place where it has them, else in
// front or at the end.
func withMembers(row []byte, set []member, front bool) []byte {
	old := membersOf(row)
	all := old
	var added []member
	for _, m := range set {
		if i := slices.IndexFunc(all, func(o member) bool { return o.name == m.name }); i >= 0 {
			all[i].raw = m.raw
		} else {
			added = append(added, m)
		}
	}
	if front {
		all = append(added, all...)
	} else {
		all = append(all, added...)
	}
	return object(all)
}

func membersOf(row []byte) []member {
	var all []member
	eachMember(row, func(name, raw []byte) { all = append(all, member{string(name), raw}) })
	return all
}

func object(members []member) []byte {
	dst := []byte{'{'}
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(wire.AppendString(dst, m.name), ':')
		dst = append(dst, m.raw...)
	}
	return append(dst, '}')
}

// Change is what a call did to one row.
type Change struct {
	Table string
	// Key is JSON: the key, or a list of its parts.
	Key string
	// Before and After are the row; nil where there was, or is, none.
	Before, After []byte
	// Fields are the members that differ, in the order of the row, removed ones last.
	Fields []FieldChange
}

// FieldChange is a member that a call changed: one that is written in another way, but
// equal for the hash of the state, is not. Before and After are JSON, nil where
// there was, or is, no such member.
type FieldChange struct {
	Name          string
	Before, After []byte
}

// changesSince are the changes behind a snapshot, by table and then as they came about.
// A row that went and came again is one change.
func (r *Run) changesSince(s *Snapshot) []Change {
	type place struct {
		table int
		key   string
	}
	seen := map[place]bool{}
	var changes []Change
	for i := range r.world.tables {
		for _, u := range r.journal[s.changes:] {
			if u.table != i || seen[place{i, u.key}] {
				continue
			}
			seen[place{i, u.key}] = true
			t := r.world.tables[i]
			c := Change{Table: t.name, Key: u.key, Before: u.before}
			if u.fresh && u.row < t.len() {
				c.Before = t.row(u.row)
			}
			if _, raw, ok := r.get(t, u.key); ok {
				c.After = raw
			}
			c.Fields = t.compare(c.Before, c.After)
			if len(c.Fields) > 0 || (c.Before == nil) != (c.After == nil) {
				changes = append(changes, c)
			}
		}
	}
	return changes
}

func (t *table) compare(before, after []byte) []FieldChange {
	var was, is []member
	if before != nil {
		was = membersOf(before)
	}
	if after != nil {
		is = membersOf(after)
	}
	find := func(in []member, name string) []byte {
		if i := slices.IndexFunc(in, func(m member) bool { return m.name == name }); i >= 0 {
			return in[i].raw
		}
		return nil
	}
	var fields []FieldChange
	for _, m := range is {
		if old := find(was, m.name); old == nil || !t.sameState(m.name, old, m.raw) {
			fields = append(fields, FieldChange{Name: m.name, Before: old, After: m.raw})
		}
	}
	for _, m := range was {
		if find(is, m.name) == nil {
			fields = append(fields, FieldChange{Name: m.name, Before: m.raw})
		}
	}
	return fields
}

// sameState reports whether two values of a field are one, as the hash has it.
func (t *table) sameState(field string, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	ordered := below(t.ordered, field)
	return bytes.Equal(stateOf(a, ordered), stateOf(b, ordered))
}

// draw is the n-th number drawn for a purpose in one call of a run.
func (r *Run) draw(purpose string, number int, n uint64) uint64 {
	text := binary.BigEndian.AppendUint64([]byte("sallyport twin draw 1\x00"), r.seed)
	text = binary.BigEndian.AppendUint64(text, uint64(number))
	text = binary.BigEndian.AppendUint64(text, n)
	sum := sha256.Sum256(append(text, purpose...))
	return binary.BigEndian.Uint64(sum[:])
}

// below64 maps a drawn number to 0 to n-1; n is at least 1.
func below64(drawn, n uint64) uint64 {
	high, _ := bits.Mul64(drawn, n)
	return high
}

// tick advances the clock after a call, by whole milliseconds more than the least.
func (r *Run) tick(number int) {
	low, high := r.world.tick[0], r.world.tick[1]
	steps := uint64((high - low) / time.Millisecond)
	r.clock = r.clock.Add(low + time.Millisecond*time.Duration(below64(r.draw("tick", number, 0), steps+1)))
}
