"""From the step's allocations to the bytes that the caching allocator holds."""
