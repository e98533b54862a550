package descriptor

// Within is within of two schemas that have been decoded with numbers kept.
var Within = within
