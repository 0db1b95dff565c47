"""The web page for approvals and reports. Nothing here yet: it imports lifecycle, rules and audit when it comes."""
