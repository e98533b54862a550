package agentside

import (
	"bytes"
	"net/http"
	"strconv"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// listTTL is how long a client of the stateless era may keep a list. A list that
// is out of date misleads nobody for long: calls are decided when they are made.
const listTTL = 30 * time.Second

// tools answers tools/list in one page.
func (p *post) tools(sallyport.Kind) {
	if p.m.Cursor != "" {
		p.fail(http.StatusOK, wire.InvalidParams, "the list has one page: no cursor was given out", nil)
		return
	}
	list, err := p.h.Gateway.Tools(p.ctx, p.credential)
	if err != nil {
		p.refuse(0, p.h.refusal(err))
		return
	}
	id, b := p.m.ID.Of(p.m.Raw), buffers.Get().(*[]byte)
	*b = append(append((*b)[:0], `{"jsonrpc":"2.0","id":`...), id...)
	*b = append(*b, `,"result":{"tools":`...)
	head := len(*b)
	if p.era == wire.Stateless {
		*b = append(*b, ',')
		*b = p.h.appendFreshness(*b)
	}
	*b = append(*b, "}}"...)
	p.answer.end(http.StatusOK, (*b)[:head], p.h.arrays.of(list), (*b)[head:])
	putBuffer(b)
}

// appendFreshness appends the members that results made here have in the
// stateless era: that they are complete, how long they are good and for whom,
// and who says so.
func (h *Handler) appendFreshness(dst []byte) []byte {
	dst = append(dst, `"resultType":"complete","ttlMs":`...)
	dst = strconv.AppendInt(dst, listTTL.Milliseconds(), 10)
	dst = append(dst, `,"cacheScope":"private",`...)
	return h.appendServerInfo(dst)
}

func (h *Handler) appendServerInfo(dst []byte) []byte {
	dst = append(append(dst, `"_meta":{"`+wire.MetaServerInfo+`":`...), h.serverInfo...)
	return append(dst, '}')
}

// toolArrays keeps the JSON arrays of lists of tools by their Etag, since making
// one of thousands of definitions costs more than the rest of the request.
type toolArrays struct {
	mu    sync.Mutex
	kept  map[string][]byte
	bytes int
}

const maxArrayBytes = 32 << 20

func (t *toolArrays) of(list *gateway.ToolList) []byte {
	etag := list.Etag
	if etag != "" {
		t.mu.Lock()
		array := t.kept[etag]
		t.mu.Unlock()
		if array != nil {
			return array
		}
	}
	array := append([]byte{'['}, bytes.Join(list.Definitions, []byte{','})...)
	array = append(array, ']')
	if etag != "" {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.kept == nil || t.bytes+len(array) > maxArrayBytes {
			t.kept, t.bytes = map[string][]byte{}, 0
		}
		t.kept[etag] = array
		t.bytes += len(array)
	}
	return array
}

// discover answers server/discover.
func (p *post) discover(sallyport.Kind) {
	d, err := p.h.Gateway.Describe(p.r.Context(), p.credential)
	if err != nil {
		p.refuse(0, p.h.refusal(err))
		return
	}
	result := append([]byte(`{"supportedVersions":`+supported+`,"capabilities":`), capabilities(d)...)
	if d.Instructions != "" {
		result = wire.AppendString(append(result, `,"instructions":`...), d.Instructions)
	}
	result = p.h.appendFreshness(append(result, ','))
	p.send(http.StatusOK, `,"result":`, append(result, '}'))
}

// list answers the lists that upstreams make.
func (p *post) list(kind sallyport.Kind) {
	x := p.exchange(kind)
	x.Listing = true
	r := p.h.Gateway.List(p.ctx, x)
	if r.Result != nil && p.era == wire.Stateless {
		r.Result = p.h.complete(r.Result)
	}
	p.reply(0, r)
}

// complete adds to a list what the stateless era asks of one and it does not
// have.
func (h *Handler) complete(result []byte) []byte {
	for _, member := range []struct {
		name  string
		value []byte
	}{
		{"_meta", append(append([]byte(`{"`+wire.MetaServerInfo+`":`), h.serverInfo...), '}')},
		{"cacheScope", []byte(`"private"`)},
		{"ttlMs", strconv.AppendInt(nil, listTTL.Milliseconds(), 10)},
		{"resultType", []byte(`"complete"`)},
	} {
		if _, ok, err := wire.Field(result, member.name); err == nil && !ok {
			result = wire.Splice(result, wire.Insert(result, wire.Span{End: len(result)}, member.name, member.value))
		}
	}
	return result
}
