package flow

import (
	"slices"
	"strings"

	"sallyport"
)

// Query is a call that is about to be judged.
type Query struct {
	Upstream sallyport.UpstreamID
	Profile  *Profile // nil: nobody said anything, everything is an Authority
	// Arguments are as they will be sent, one JSON object or nil.
	Arguments []byte
	// Known is what the run knows; it is what may leave where nothing more exact can be
	// said.
	Known sallyport.Labels
}

// Judge says where the arguments came from.
func (x *Index) Judge(q *Query) Facts {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p := q.Profile
	if p == nil {
		p = noProfile
	}
	f := Facts{Leaves: sallyport.Public, Unindexed: x.over}
	leaves := 0
	authority := func(at *leaf, text string) {
		arg := Arg{Pointer: at.pointer(true), Kind: sallyport.Authority, Form: Plain}
		if len(text) > maxWhole && !strings.Contains(text, "://") || len(text) > 2048 {
			arg.Why = "it is too long to be looked up"
			f.Leaves = max(f.Leaves, x.marks.leaves(text, 1))
		} else {
			v := keysOf(text, q.Upstream, at.name())
			arg.Trusted, arg.Source = x.found(&v)
			arg.Form = v.form
			switch {
			case arg.Trusted:
			case v.hidden:
				arg.Why = "it holds characters that are not seen, or that are another way to write others"
			case arg.Source == nil:
				arg.Why = "nobody named it, and no result held it"
			case arg.Source.Integrity == sallyport.Endorsed:
				arg.Why = "the run itself put it where it was found"
			default:
				arg.Why = "it was found only in content that anybody may have written"
			}
			f.reach(&arg, text)
			if !arg.Trusted {
				f.Leaves = max(f.Leaves, x.marks.leaves(text, 1))
			}
		}
		f.add(at, arg)
	}
	err := walkJSON(orEmpty(q.Arguments), func(at *leaf) error {
		if leaves++; leaves > MaxArgs {
			f.Unindexed = true
		}
		kind := p.kind(at)
		switch {
		case at.isName && (len(at.path) == 1 || fieldName(at.text)), at.kind == 'n':
		case kind != sallyport.Authority:
			if at.kind == '"' || at.kind == '0' {
				if kind == sallyport.Quantity && !x.named(at.text) {
					f.UnnamedQuantities = insert(f.UnnamedQuantities, top(at))
				}
				f.UntrustedURLs += x.links(at.text)
				f.Leaves = max(f.Leaves, x.marks.leaves(at.text, 1))
			}
		case leaves > MaxArgs:
			f.UntrustedArgs = insert(f.UntrustedArgs, top(at))
		case at.kind == 't' || at.kind == 'f':
			f.add(at, Arg{Pointer: at.pointer(true), Kind: kind, Why: "a yes or no cannot be found anywhere"})
		default:
			for _, part := range parts(at.text) {
				authority(at, part)
			}
		}
		return nil
	})
	if err != nil {
		f.Unindexed = true
		f.UntrustedArgs = insert(f.UntrustedArgs, "")
	}
	if f.Unindexed {
		known := q.Known.Confidentiality
		if known == 0 {
			known = sallyport.Restricted
		}
		f.Leaves = max(f.Leaves, known)
	}
	return f
}

func (f *Facts) add(at *leaf, arg Arg) {
	f.Args = append(f.Args, arg)
	switch {
	case !arg.Trusted:
		f.UntrustedArgs = insert(f.UntrustedArgs, top(at))
	case arg.Form == Word:
		f.WordOnly = insert(f.WordOnly, top(at))
	case arg.Source.Kind == FromResult:
		f.Unnamed = insert(f.Unnamed, top(at))
	}
}

// reach notes whom an authority argument addresses.
func (f *Facts) reach(arg *Arg, text string) {
	domain := ""
	switch arg.Form {
	case Email:
		v, _ := email(strings.TrimSpace(text))
		_, domain, _ = strings.Cut(v, "@")
	case URL:
		_, domain, _ = address(strings.TrimSpace(text))
	case IBAN, Phone:
	default:
		return
	}
	if domain != "" {
		f.Domains = insert(f.Domains, domain)
	}
	if !arg.Trusted {
		f.NewRecipients++
	}
}

func top(at *leaf) string {
	if len(at.path) == 0 || !fieldName(at.path[0]) {
		return ""
	}
	return at.path[0]
}

// insert adds to a sorted set.
func insert(set []string, s string) []string {
	i, ok := slices.BinarySearch(set, s)
	if ok {
		return set
	}
	return slices.Insert(set, i, s)
}

// parts are the values of an argument that is one text: several e-mail addresses
// with commas or semicolons between them are several values, and of one with the
// name of whom it belongs to only the address counts.
func parts(s string) []string {
	if !strings.Contains(s, "@") || len(s) > 1<<14 {
		return []string{s}
	}
	var out []string
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == ';' }) {
		part = strings.TrimSpace(part)
		if i := strings.LastIndexByte(part, '<'); i >= 0 && strings.HasSuffix(part, ">") && !strings.Contains(part[:i], "@") {
			part = part[i+1 : len(part)-1]
		}
		if _, ok := email(part); !ok {
			return []string{s}
		}
		out = append(out, part)
	}
	if out == nil {
		return []string{s}
	}
	return out
}

// links counts the addresses in a text that are not trusted, neither whole nor by
// their host.
func (x *Index) links(s string) int {
	untrusted := 0
	judge := func(text string) {
		if _, ok := email(text); ok {
			return
		}
		canonical, host, ok := address(text)
		if !ok {
			scheme, _, _ := strings.Cut(text, ":")
			switch strings.ToLower(scheme) {
			case "javascript", "data", "vbscript", "file":
				if len(scheme) < len(text) {
					untrusted++
				}
			}
			return
		}
		if canonical == "" || !x.trusts(keyOf(URL, canonical)) && !x.trusts(keyOf(Host, host)) {
			untrusted++
		}
	}
	look := func(s string) {
		for word := range strings.FieldsSeq(s) {
			if classOf(word)&(dot|slash|colon) != 0 {
				links(word, judge)
			}
		}
	}
	look(s)
	// What shows the text may fold it, and read the full stop of Chinese as a dot, as
	// the names of hosts do (RFC 3490, section 3.1).
	if c := strings.ReplaceAll(clean(s), "\u3002", "."); c != s {
		look(c)
	}
	return untrusted
}

func (x *Index) trusts(k key) bool {
	s := x.slots[k]
	return s.firm != 0 || s.soft != 0 && !s.sent
}

// named reports whether a person named a number or a day.
func (x *Index) named(s string) bool {
	form, canonical := recognise(s)
	return (form == Decimal || form == Date) && x.slots[keyOf(form, canonical)].firm != 0
}
