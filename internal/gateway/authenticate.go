package gateway

import (
	"context"

	"sallyport"
)

// authenticate asks whose credential it is. Nothing else of the request says who
// is calling.
func (g *Gateway) authenticate(ctx context.Context, x *Exchange) error {
	if r := g.Ready(); r != nil {
		return r
	}
	id, err := g.Identities.Identify(ctx, x.Credential)
	if err != nil {
		return err
	}
	if x.Session != nil && x.Session.Key != id.Key {
		return sallyport.Refuse(sallyport.Unauthenticated, "the session belongs to another credential",
			"initialize a session of your own")
	}
	x.Identity = id
	return nil
}
