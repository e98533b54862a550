// Package wire reads and writes MCP messages of both eras: it scans a JSON-RPC
// message once and strictly, says where in the sender's bytes the parts lie that
// a gateway acts on, changes bytes only where it is asked to, and holds headers
// and body against each other. It frames messages for server-sent events and for
// stdio. It does no I/O of its own and keeps no state between messages.
//
// The reading is strict because two readers follow: the gateway decides on what
// it read, the server acts on what it read. A message that two readers could
// read differently (duplicate names, "Method" beside "method", broken UTF-8,
// batches) is refused here.
package wire

// Era is one of the two shapes of the protocol. The zero value is unknown.
type Era uint8

// The eras.
const (
	Sessions  Era = iota + 1 // initialize, then session ids: 2025-11-25 and before
	Stateless                // every request stands alone: 2026-07-28
)

func (e Era) String() string {
	switch e {
	case Sessions:
		return "sessions"
	case Stateless:
		return "stateless"
	default:
		return "unknown"
	}
}

// The versions of the protocol that are spoken.
const (
	Version20250618 = "2025-06-18"
	Version20251125 = "2025-11-25"
	Version20260728 = "2026-07-28"
)

// EraOf returns the era of a protocol version, and false for a version that is
// not spoken.
func EraOf(version string) (Era, bool) {
	switch version {
	case Version20250618, Version20251125:
		return Sessions, true
	case Version20260728:
		return Stateless, true
	default:
		return 0, false
	}
}

// The JSON-RPC error codes of both eras (MCP 2026-07-28, "Error Codes").
const (
	ParseError     = -32700
	InvalidRequest = -32600
	MethodNotFound = -32601
	InvalidParams  = -32602
	InternalError  = -32603

	// Stateless era only.
	HeaderMismatch          = -32020
	MissingClientCapability = -32021
	UnsupportedVersion      = -32022

	// ResourceNotFound belongs to the sessions era; in the stateless era a
	// missing resource is InvalidParams and this code must not be sent.
	ResourceNotFound = -32002
)

// The methods of both eras.
const (
	MethodInitialize             = "initialize"      // sessions
	MethodPing                   = "ping"            // sessions
	MethodServerDiscover         = "server/discover" // stateless
	MethodToolsList              = "tools/list"
	MethodToolsCall              = "tools/call"
	MethodResourcesList          = "resources/list"
	MethodResourcesTemplatesList = "resources/templates/list"
	MethodResourcesRead          = "resources/read"
	MethodResourcesSubscribe     = "resources/subscribe"   // sessions
	MethodResourcesUnsubscribe   = "resources/unsubscribe" // sessions
	MethodPromptsList            = "prompts/list"
	MethodPromptsGet             = "prompts/get"
	MethodCompletionComplete     = "completion/complete"
	MethodLoggingSetLevel        = "logging/setLevel"     // sessions
	MethodSubscriptionsListen    = "subscriptions/listen" // stateless

	// From server to client: requests in the sessions era, input requests inside
	// a result in the stateless era.
	MethodSamplingCreateMessage = "sampling/createMessage"
	MethodElicitationCreate     = "elicitation/create"
	MethodRootsList             = "roots/list"

	// Tasks: part of 2025-11-25, an extension of 2026-07-28.
	MethodTasksGet    = "tasks/get"
	MethodTasksResult = "tasks/result" // sessions
	MethodTasksList   = "tasks/list"   // sessions
	MethodTasksUpdate = "tasks/update" // stateless
	MethodTasksCancel = "tasks/cancel"
)

// The notifications of both eras.
const (
	NotificationInitialized               = "notifications/initialized" // sessions
	NotificationCancelled                 = "notifications/cancelled"
	NotificationProgress                  = "notifications/progress"
	NotificationMessage                   = "notifications/message"
	NotificationToolsListChanged          = "notifications/tools/list_changed"
	NotificationResourcesListChanged      = "notifications/resources/list_changed"
	NotificationResourcesUpdated          = "notifications/resources/updated"
	NotificationPromptsListChanged        = "notifications/prompts/list_changed"
	NotificationRootsListChanged          = "notifications/roots/list_changed" // sessions
	NotificationElicitationComplete       = "notifications/elicitation/complete"
	NotificationTasksStatus               = "notifications/tasks/status"
	NotificationSubscriptionsAcknowledged = "notifications/subscriptions/acknowledged" // stateless
)

// The names the protocol reserves inside _meta.
const (
	MetaProtocolVersion    = "io.modelcontextprotocol/protocolVersion"
	MetaClientInfo         = "io.modelcontextprotocol/clientInfo"
	MetaClientCapabilities = "io.modelcontextprotocol/clientCapabilities"
	MetaServerInfo         = "io.modelcontextprotocol/serverInfo"
	MetaLogLevel           = "io.modelcontextprotocol/logLevel"
	MetaSubscriptionID     = "io.modelcontextprotocol/subscriptionId"
	MetaProgressToken      = "progressToken"
)

// The values of resultType that the core protocol defines.
const (
	ResultComplete      = "complete"
	ResultInputRequired = "input_required"
)

// methodName returns a method as a string, without allocating for the methods
// the protocol defines.
func methodName(b []byte) string {
	switch string(b) {
	case MethodInitialize:
		return MethodInitialize
	case MethodPing:
		return MethodPing
	case MethodServerDiscover:
		return MethodServerDiscover
	case MethodToolsList:
		return MethodToolsList
	case MethodToolsCall:
		return MethodToolsCall
	case MethodResourcesList:
		return MethodResourcesList
	case MethodResourcesTemplatesList:
		return MethodResourcesTemplatesList
	case MethodResourcesRead:
		return MethodResourcesRead
	case MethodResourcesSubscribe:
		return MethodResourcesSubscribe
	case MethodResourcesUnsubscribe:
		return MethodResourcesUnsubscribe
	case MethodPromptsList:
		return MethodPromptsList
	case MethodPromptsGet:
		return MethodPromptsGet
	case MethodCompletionComplete:
		return MethodCompletionComplete
	case MethodLoggingSetLevel:
		return MethodLoggingSetLevel
	case MethodSubscriptionsListen:
		return MethodSubscriptionsListen
	case MethodSamplingCreateMessage:
		return MethodSamplingCreateMessage
	case MethodElicitationCreate:
		return MethodElicitationCreate
	case MethodRootsList:
		return MethodRootsList
	case MethodTasksGet:
		return MethodTasksGet
	case MethodTasksResult:
		return MethodTasksResult
	case MethodTasksList:
		return MethodTasksList
	case MethodTasksUpdate:
		return MethodTasksUpdate
	case MethodTasksCancel:
		return MethodTasksCancel
	case NotificationInitialized:
		return NotificationInitialized
	case NotificationCancelled:
		return NotificationCancelled
	case NotificationProgress:
		return NotificationProgress
	case NotificationMessage:
		return NotificationMessage
	case NotificationToolsListChanged:
		return NotificationToolsListChanged
	case NotificationResourcesListChanged:
		return NotificationResourcesListChanged
	case NotificationResourcesUpdated:
		return NotificationResourcesUpdated
	case NotificationPromptsListChanged:
		return NotificationPromptsListChanged
	case NotificationRootsListChanged:
		return NotificationRootsListChanged
	case NotificationElicitationComplete:
		return NotificationElicitationComplete
	case NotificationTasksStatus:
		return NotificationTasksStatus
	case NotificationSubscriptionsAcknowledged:
		return NotificationSubscriptionsAcknowledged
	default:
		return string(b)
	}
}

// versionName returns a protocol version as a string, without allocating for
// those that are spoken.
func versionName(b []byte) string {
	switch string(b) {
	case Version20260728:
		return Version20260728
	case Version20251125:
		return Version20251125
	case Version20250618:
		return Version20250618
	default:
		return string(b)
	}
}
