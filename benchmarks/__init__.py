"""What is measured about ssleval itself: speed, and the suites it runs."""
