package app

import (
	"net/http/httptest"
	"testing"
)

// ShopDocument describes the HTTP API that NewShop starts. BigOrder is its order 7.
const (
	ShopDocument = shopDocument
	BigOrder     = bigOrder
)

func NewShop(t testing.TB) *httptest.Server { return newShop(t).Server }
